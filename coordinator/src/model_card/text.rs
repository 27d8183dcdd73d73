//! Text of others in YAML and in Markdown: whatever it is, it stays text.

use std::fmt::Write as _;

/// A string of YAML 1.1 and 1.2, in double quotes. What might not be printable there is escaped.
pub(super) fn yaml(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        // Writing to a string cannot fail.
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if c.is_alphanumeric() => out.push(c),
            c => write!(out, "\\U{:08X}", u32::from(c)).unwrap_or_default(),
        }
    }
    out.push('"');
    out
}

/// Text in Markdown, in a table as well: what could be markup is written as the number of the character.
pub(super) fn markdown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            c if c.is_alphanumeric() || " ,.-/:=+%".contains(c) => out.push(c),
            c if c.is_control() => out.push(' '),
            c => write!(out, "&#{};", u32::from(c)).unwrap_or_default(),
        }
    }
    out
}

/// A block of code that nothing in `code` ends.
pub(super) fn block(language: &str, code: &str) -> String {
    let longest = code.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}{language}\n{code}\n{fence}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_text_it_is_it_stays_text() {
        assert_eq!(yaml("a: \"b\"\\\n---\n#"), "\"a: \\\"b\\\"\\\\\\U0000000A---\\U0000000A#\"");
        assert_eq!(yaml("é\u{85}\u{feff}\u{2028}😀"), "\"é\\U00000085\\U0000FEFF\\U00002028\\U0001F600\"");
        assert_eq!(
            markdown("a|b<c>`d`[e](f)\n*g_h"),
            "a&#124;b&#60;c&#62;&#96;d&#96;&#91;e&#93;&#40;f&#41; &#42;g&#95;h"
        );
        assert_eq!(block("sh", "a ``` b"), "````sh\na ``` b\n````\n");
    }
}
