//! What the pieces of the page share.

/// Text for HTML, in an element or an attribute.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number with about four digits that count, and no zeros after them.
pub(crate) fn shown(value: f64) -> String {
    let size = value.abs();
    let text = match size {
        _ if value.fract() == 0.0 && size < 1e6 => return format!("{value:.0}"),
        _ if !(1e-3..1e6).contains(&size) => format!("{value:.3e}"),
        _ if size >= 1000.0 => return format!("{value:.0}"),
        _ if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    };
    let (digits, power) = text.split_at(text.find('e').unwrap_or(text.len()));
    format!("{}{power}", digits.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_markup_is_text() {
        let numbers = [0.0, 0.674_074, 2e-5, 17.255, 11_232.4, 2e7, -0.5].map(shown);
        assert_eq!(numbers, ["0", "0.6741", "2e-5", "17.25", "11232", "2e7", "-0.5"]);
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
