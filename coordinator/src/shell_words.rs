//! Commands as a person can type them again.

/// The words of a command, as a shell of Unix takes them.
#[must_use]
pub fn shell(words: &[String]) -> String {
    let plain = |word: &&String| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c))
    };
    let quoted = |word: &String| match Some(word).filter(plain) {
        Some(word) => word.clone(),
        None => format!("'{}'", word.replace('\'', "'\\''")),
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_them_as_they_are() {
        let words = ["medley", "", "it's", "a b", "$(x)", "--rate=1e-3"].map(str::to_owned);
        assert_eq!(shell(&words), "medley '' 'it'\\''s' 'a b' '$(x)' --rate=1e-3");
    }
}
