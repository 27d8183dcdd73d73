//! What a command printed beside what a document says it prints.
//!
//! The rule, of a line of either:
//! - what comes by time alone is left out: progress between log lines (`update 7/100: …`), who is slow; a document may show
//!   who is lost, and what becomes of it, but that is not compared;
//! - what is another each time or on each machine is masked: process ids, ports, hosts, cores, names of runs, times, speeds,
//!   memory; and digests,
//!   of which only is compared which of them are equal;
//! - what several processes say at once may be in another order: workers that join;
//! - `...` on a line of its own stands for any lines;
//! - all other numbers are equal where the processor is the one that the document names, and not compared elsewhere.

/// Whether numbers that are no times are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// To the last digit.
    Equal,
    /// Not at all.
    Masked,
}

/// What times, speeds, sizes and a machine's parts are given in.
const UNITS: [&str; 17] = [
    "s",
    "ms",
    "min",
    "h",
    "rows/s",
    "updates/s",
    "tokens/s",
    "B",
    "kB",
    "KB",
    "MB",
    "GB",
    "MiB",
    "GiB",
    "thread",
    "core",
    "GPU",
];
/// Words before what is another on each machine.
const NAMES: [&str; 5] = ["pid", "host", "joined:", "vector", "processor"];
/// The digits that make a word of them a digest.
const DIGEST: usize = 12;

/// Compares what a document says with what was printed.
///
/// # Errors
/// The first line that is another, and all that was printed.
pub fn compare(said: &[String], printed: &str, numbers: Numbers) -> Result<(), String> {
    let wrong = |what: String| Err(format!("{what}\nit printed:\n{}", printed.trim_end()));
    let (mut known, mut met) = (Vec::new(), Vec::new());
    let said: Vec<String> = said.iter().filter_map(|line| masked(line, numbers, &mut known)).collect();
    let printed: Vec<String> = printed.lines().filter_map(|line| masked(line, numbers, &mut met)).collect();
    let (said_at_once, said) = said.into_iter().partition::<Vec<_>, _>(|line| is_unordered(line));
    let (printed_at_once, printed) = printed.into_iter().partition::<Vec<_>, _>(|line| is_unordered(line));
    if let Some(line) = said_at_once.iter().find(|line| !printed_at_once.contains(line)) {
        return wrong(format!("the document has a line that was not printed: {line}"));
    }
    let mut at = 0;
    let segments: Vec<&[String]> = said.split(|line| line == "...").collect();
    for (index, segment) in segments.iter().enumerate() {
        let found = match (index == 0, index + 1 == segments.len()) {
            // Between two gaps it is looked for; at an end it must be there.
            (true, _) => Some(0),
            (false, false) if segment.is_empty() => Some(at),
            (false, true) => Some(printed.len().saturating_sub(segment.len()).max(at)),
            (false, false) => (at..printed.len()).find(|start| printed[*start..].starts_with(segment)),
        };
        let Some(start) = found else { return wrong(format!("not printed, one after the other: {segment:#?}")) };
        for (offset, line) in segment.iter().enumerate() {
            match printed.get(start + offset) {
                Some(other) if other == line => {}
                other => return wrong(format!("the document says: {line}\nit printed:        {other:?}")),
            }
        }
        at = start + segment.len();
        if index + 1 == segments.len() && at != printed.len() {
            return wrong(format!("the document ends before: {}", printed[at]));
        }
    }
    Ok(())
}

/// What a document should say in place of `said`: what was printed, with the gaps that it has.
pub fn renewed(said: &[String], printed: &str) -> Vec<String> {
    let printed: Vec<String> =
        printed.trim_end().lines().filter(|line| !is_progress(line)).map(|line| line.trim_end().to_owned()).collect();
    let segments: Vec<&[String]> = said.split(|line| line == "...").collect();
    let [first, between @ .., last] = &segments[..] else { return printed };
    if first.len() + last.len() > printed.len() {
        return printed;
    }
    let alike = |line: &str| masked(line, Numbers::Masked, &mut Vec::new());
    // A line between gaps is known by its words.
    let line = |line: &String| printed.iter().find(|other| alike(other) == alike(line)).unwrap_or(line).clone();
    let between = between.iter().map(|segment| segment.iter().map(line).collect());
    let mut kept = vec![printed[..first.len()].to_vec()];
    kept.extend(between);
    kept.push(printed[printed.len() - last.len()..].to_vec());
    kept.join(&"...".to_owned())
}

/// A line as it is compared, `digests` those of the lines before it; `None` where it is not.
fn masked(line: &str, numbers: Numbers, digests: &mut Vec<String>) -> Option<String> {
    if is_by_time(line) || line.trim().is_empty() {
        return None;
    }
    let one = |word| match word {
        "threads" => "thread",
        "cores" | "cores," => "core",
        "GPUs" => "GPU",
        other => other,
    };
    let words: Vec<&str> = line.split_whitespace().map(one).collect();
    let mut masked = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| words.get(at)).copied().unwrap_or_default();
        let unit = words.get(at + 1).map_or("", |next| next.trim_end_matches([',', ';', ')', '.', ':']));
        let name = NAMES.contains(&before);
        let time = UNITS.contains(&unit) && word.contains(|letter: char| letter.is_ascii_digit());
        masked.push(if name || (time && !word.contains(['=', ':'])) {
            "…".to_owned()
        } else {
            inside(word, numbers, digests)
        });
    }
    Some(masked.join(" "))
}

/// A word with its digest, its port and, where they are not compared, its numbers masked.
///
/// A digest is told by which of those in the output it is: two that are equal must be equal.
fn inside(word: &str, numbers: Numbers, digests: &mut Vec<String>) -> String {
    let mut masked = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let is_hex = |letter: char| letter.is_ascii_digit() || ('a'..='f').contains(&letter);
        let hex = rest.len() - rest.trim_start_matches(is_hex).len();
        let digits = rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        if hex >= DIGEST && digits < hex {
            let digest = &rest[..hex];
            let known = digests.iter().position(|known| known == digest).unwrap_or_else(|| {
                digests.push(digest.to_owned());
                digests.len() - 1
            });
            masked.push_str(&format!("digest-{}", (b'a' + (known % 26) as u8) as char));
            rest = &rest[hex..];
        } else if let Some(port) = rest.strip_prefix("127.0.0.1:") {
            masked.push_str("127.0.0.1:…");
            rest = port.trim_start_matches(|letter: char| letter.is_ascii_digit());
        } else if let Some(run) = rest.strip_prefix("/runs/") {
            masked.push_str("/runs/…");
            rest = run.trim_start_matches(is_hex);
        } else if digits > 0 {
            masked.push_str(if numbers == Numbers::Masked { "…" } else { &rest[..digits] });
            rest = &rest[digits..];
        } else {
            let letter = rest.chars().next().unwrap_or_default();
            masked.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    masked
}

/// What a document need not show.
fn is_progress(line: &str) -> bool {
    let progress = line.starts_with("update ") && line.contains("rows/s") && line.contains('/');
    progress || line.contains(") is slow: ") || line.ends_with("is as fast as the others again")
}

fn is_by_time(line: &str) -> bool {
    let fate = [" was lost while ", "going on with ", "starting another worker"];
    is_progress(line) || fate.iter().any(|part| line.contains(part))
}

fn is_unordered(line: &str) -> bool {
    line.starts_with("worker ") || line.starts_with("medley-worker: ")
}

#[test]
fn what_is_another_each_time_is_masked_and_nothing_else() {
    let said = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let document = said(&["worker 2 joined: vm, pid 7, cpu", "loss 0.51, 9 s, at 127.0.0.1:81", "...", "done"]);
    let printed = "update 1/9: loss 1, 3 rows/s, 0 s left\nloss 0.51, 12 s, at 127.0.0.1:9\n\
        worker 2 joined: x, pid 81, cpu\na\nb\ndone\n";
    assert_eq!(compare(&document, printed, Numbers::Equal), Ok(()));
    let other = printed.replace("0.51", "0.52");
    assert!(compare(&document, &other, Numbers::Equal).is_err_and(|wrong| wrong.contains("0.52")));
    assert_eq!(compare(&document, &other, Numbers::Masked), Ok(()));
    for wrong in
        [printed.replace("done", "failed"), format!("{printed}more\n"), printed.replace("worker 2", "worker 3")]
    {
        assert!(compare(&document, &wrong, Numbers::Equal).is_err(), "{wrong}");
    }
    let digests = ["0123456789abcdef  a", "0123456789abcdef  b"];
    assert_eq!(compare(&said(&digests), "fedcba9876543210  a\nfedcba9876543210  b", Numbers::Equal), Ok(()));
    assert!(compare(&said(&digests), "fedcba9876543210  a\n0123456789abcdef  b", Numbers::Equal).is_err());
    let renewed = renewed(&document, printed);
    assert_eq!(renewed, ["loss 0.51, 12 s, at 127.0.0.1:9", "worker 2 joined: x, pid 81, cpu", "...", "done"]);
}
