//! What the page is made of, as it lies in the program: a browser loads nothing from elsewhere.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

/// The page, with a place for each part of it in double braces.
pub const PAGE: &str = include_str!("assets/live.html");
/// Colours and charts are those of the report.
const STYLE: &str = concat!(include_str!("../report_page/page.css"), include_str!("assets/live.css"));
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// What else a browser loads: from where, of what kind, and its text.
const PARTS: [(&str, &str, &str); 9] = [
    ("/live.css", "text/css; charset=utf-8", STYLE),
    ("/live.svg", "image/svg+xml", include_str!("assets/live.svg")),
    ("/live.js", JAVASCRIPT, include_str!("assets/live.js")),
    ("/page.js", JAVASCRIPT, include_str!("assets/page.js")),
    ("/curve.js", JAVASCRIPT, include_str!("assets/curve.js")),
    ("/chart.js", JAVASCRIPT, include_str!("assets/chart.js")),
    ("/workers.js", JAVASCRIPT, include_str!("assets/workers.js")),
    ("/moments.js", JAVASCRIPT, include_str!("assets/moments.js")),
    ("/evaluations.js", JAVASCRIPT, include_str!("assets/evaluations.js")),
];

/// Where the page finds them.
pub fn routes() -> Router {
    PARTS.iter().fold(Router::new(), |router, (path, kind, text)| router.route(path, get(async || answer(kind, text))))
}

fn answer(kind: &'static str, text: &'static str) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, kind)], text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page whose part is not there shows nothing; one that loads from elsewhere tells who looks at it.
    #[test]
    fn all_that_the_page_loads_is_here() {
        let texts = PARTS.iter().map(|(_, _, text)| *text).chain([PAGE]);
        let mut loaded: Vec<String> = Vec::new();
        for text in texts {
            for mark in ["src=\"", "from \".", "rel=\"stylesheet\" href=\"", "type=\"image/svg+xml\" href=\""] {
                loaded.extend(text.split(mark).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
            for never in ["https://", "url(", "@import", "eval(", "innerHTML", "localStorage"] {
                assert!(!text.contains(never), "{never}");
            }
        }
        loaded.sort();
        loaded.dedup();
        let mut parts: Vec<String> = PARTS.iter().map(|(path, _, _)| (*path).to_owned()).collect();
        parts.sort();
        assert_eq!(loaded, parts);
    }
}
