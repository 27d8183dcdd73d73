use std::fs::File;

use proptest::prelude::*;

use super::*;
use crate::dataset::format::RECORD_LIMIT_BYTES;
use crate::dataset::layout::Quoting;

const GOOD: &str = r#"{"gold_label": "neutral", "sentence1": "He has a SECRET cough.", "sentence2": "He is ill."}"#;

fn read(content: impl AsRef<[u8]>, need: Labels) -> Result<Rows, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.jsonl");
    std::fs::write(&path, content).unwrap();
    read_rows(&path, &RowLayout::default(), &LabelSet::default(), need).map_err(|error| {
        let text = error.to_string();
        assert!(!text.contains("SECRET") && !format!("{error:?}").contains("SECRET"), "{text}");
        text.replace(&path.display().to_string(), "train.jsonl")
    })
}

fn sentences(row: &Row) -> Vec<&str> {
    row.text.sentences().collect()
}

fn refusal(line: &str) -> String {
    read(format!("{GOOD}\n{line}\n{GOOD}\n"), Labels::Required).unwrap_err()
}

#[test]
fn rows_come_in_file_order() {
    let other = GOOD.replace("neutral", "contradiction");
    let pairs = read(format!("{GOOD}\n\n  \n{other}\n"), Labels::Required).unwrap();
    let seen: Vec<_> = pairs.rows.iter().map(|row| (row.line, row.label)).collect();
    assert_eq!(seen, [(1, Some(1)), (4, Some(2))]);
    assert_eq!(sentences(&pairs.rows[0]), ["He has a SECRET cough.", "He is ill."]);
    assert!(!format!("{pairs:?}").contains("SECRET"));
}

#[test]
fn ends_of_lines_and_marks_do_not_matter() {
    for content in [format!("\u{feff}{GOOD}\r\n{GOOD}\r\n"), format!("{GOOD}\n{GOOD}")] {
        let pairs = read(content, Labels::Required).unwrap();
        assert_eq!(pairs.rows.len(), 2);
        assert_eq!(pairs.rows[0].label, pairs.rows[1].label);
    }
}

#[test]
fn other_fields_and_odd_text_are_taken_as_they_are() {
    let line = r#"{"sentence1": "a\u0000b \ud83d\ude00", "x": {"sentence1": [1, {"y": 1e999}]}, "sentence2": "", "gold_label": "entailment", "n": null}"#;
    let pairs = read(line, Labels::Required).unwrap();
    assert_eq!(sentences(&pairs.rows[0]), ["a\0b \u{1f600}", ""]);
    assert_eq!(pairs.empty_sentences, 1);
    let twice = r#"{"sentence1": "a", "sentence1": "b", "sentence2": "c", "gold_label": "neutral"}"#;
    assert_eq!(sentences(&read(twice, Labels::Required).unwrap().rows[0])[0], "b", "the last one wins, as in Python");
}

#[test]
fn rows_without_consensus_are_left_out_and_counted() {
    let none = GOOD.replace("neutral", "-");
    let pairs = read(format!("{none}\n{GOOD}\n{none}\n"), Labels::Required).unwrap();
    assert_eq!((pairs.rows.len(), pairs.no_consensus, pairs.rows[0].line), (1, 2, 2));
    assert_eq!(
        read(none, Labels::Required).unwrap_err(),
        "train.jsonl holds no row (1 lines with gold_label \"-\" left out)"
    );
}

#[test]
fn a_test_file_may_lack_labels_but_not_invent_them() {
    let without = r#"{"sentence1": "a", "sentence2": "b"}"#;
    let null = r#"{"sentence1": "a", "sentence2": "b", "gold_label": null}"#;
    let empty = r#"{"sentence1": "a", "sentence2": "b", "gold_label": ""}"#;
    let pairs = read([without, null, empty, GOOD].join("\n"), Labels::Optional).unwrap();
    assert_eq!((pairs.rows.len(), pairs.unlabelled, pairs.rows[3].label), (4, 3, Some(1)));
    assert_eq!(
        read(without, Labels::Required).unwrap_err(),
        "train.jsonl:1: gold_label is missing; the line has sentence1 and sentence2: give --label_column_name"
    );
    for line in [null, empty] {
        assert_eq!(
            read(line, Labels::Required).unwrap_err(),
            "train.jsonl:1: gold_label is missing; expected entailment, neutral or contradiction"
        );
    }
    let wrong = GOOD.replace("neutral", "maybe");
    assert_eq!(
        read(wrong, Labels::Optional).unwrap_err(),
        "train.jsonl:1: gold_label is \"maybe\"; expected entailment, neutral or contradiction"
    );
}

#[test]
fn wrong_lines_are_named() {
    let cases = [
        ("{oops SECRET", "not JSON: key must be a string at column 2"),
        (r#"{"sentence1": "SECRET"#, "not JSON: EOF while parsing a string at column 21"),
        (&format!("{GOOD} {GOOD}"), &format!("not JSON: trailing characters at column {}", GOOD.len() + 2)),
        (r#"["SECRET"]"#, "the line is an array; expected an object a line, which jq -c '.[]' makes of an array"),
        ("[", "the line is the start of an array; expected an object a line, which jq -c '.[]' makes of an array"),
        (r#""SECRET""#, "the line is a string; expected an object"),
        ("null", "the line is null; expected an object"),
        ("-1", "the line is a number; expected an object"),
        (
            r#"{"sentence2": "SECRET", "gold_label": "neutral"}"#,
            "sentence1 is missing; the line has gold_label and sentence2: give --text_column_names",
        ),
        (
            r#"{"sentence1": "SECRET", "gold_label": "neutral"}"#,
            "sentence2 is missing; the line has gold_label and sentence1: give --text_column_names",
        ),
        ("{}", "sentence1 is missing; the line has none: give --text_column_names"),
        (
            r#"{"SECRET is a word": 1, "text": 2}"#,
            "sentence1 is missing; the line has text and 1 more: give --text_column_names",
        ),
        (r#"{"sentence1": "SECRET", "sentence2": 5, "gold_label": ""}"#, "sentence2 is a number; expected a string"),
        (r#"{"sentence1": null, "sentence2": "SECRET", "gold_label": ""}"#, "sentence1 is null; expected a string"),
        (r#"{"sentence1": ["SECRET"], "sentence2": "", "gold_label": ""}"#, "sentence1 is an array; expected a string"),
        (
            r#"{"sentence1": {"SECRET": 1}, "sentence2": "", "gold_label": ""}"#,
            "sentence1 is an object; expected a string",
        ),
        (
            &GOOD.replace("\"neutral\"", "1"),
            "gold_label is \"1\"; expected entailment, neutral or contradiction, in words; medley train --labels 0,1,2 takes numbers",
        ),
        (
            &GOOD.replace("\"neutral\"", "1.5"),
            "gold_label is a number with a fraction; expected a string or a whole number",
        ),
        (&GOOD.replace("\"neutral\"", "true"), "gold_label is a boolean; expected a string or a whole number"),
        (
            &GOOD.replace("neutral", &format!("\\u001b[31m{}SECRET", "x".repeat(50))),
            &format!(
                "gold_label is \"\\u{{1b}}[31m{}…\"; expected entailment, neutral or contradiction",
                "x".repeat(35)
            ),
        ),
    ];
    for (line, problem) in cases {
        assert_eq!(refusal(line), format!("train.jsonl:2: {problem}"));
    }
}

#[test]
fn wrong_bytes_are_named() {
    let mut content = format!("{GOOD}\nabc").into_bytes();
    content.extend([0xff, b'\n']);
    assert_eq!(
        read(content, Labels::Required).unwrap_err(),
        "train.jsonl:2: byte 4 is not UTF-8; save the file as UTF-8"
    );
}

#[test]
fn a_line_without_end_is_not_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.jsonl");
    let file = File::create(&path).unwrap();
    // A hole of 64 GiB: reading it whole would neither fit nor end.
    file.set_len(64 << 30).unwrap();
    let error =
        read_rows(&path, &RowLayout::default(), &LabelSet::default(), Labels::Required).unwrap_err().to_string();
    assert!(error.ends_with("train.jsonl:1: the line has more than 16777216 bytes"), "{error}");
}

#[test]
fn a_line_at_the_limit_is_read() {
    let padding = RECORD_LIMIT_BYTES as usize - GOOD.len() - 1;
    let fits = format!("{GOOD}{}\n{GOOD}\n", " ".repeat(padding));
    assert_eq!(read(&fits, Labels::Required).unwrap().rows.len(), 2);
    let longer = format!("{GOOD}{}\n{GOOD}\n", " ".repeat(padding + 1));
    assert!(read(&longer, Labels::Required).is_err());
}

#[test]
fn unusable_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let labels = LabelSet::default();
    let refused =
        |path: &Path| read_rows(path, &RowLayout::default(), &labels, Labels::Required).unwrap_err().to_string();
    let expected = "expected a file of rows: JSON lines, or .csv or .tsv";
    assert!(refused(&folder.path().join("no.jsonl")).ends_with(&format!("no.jsonl does not exist; {expected}")));
    assert!(refused(folder.path()).ends_with(&format!("is a folder; {expected}")));
    for content in ["", "\n\r\n  \n", "\u{feff}"] {
        assert_eq!(read(content, Labels::Optional).unwrap_err(), "train.jsonl holds no row", "{content:?}");
    }
}

#[test]
fn labels_are_those_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.json");
    let layout = RowLayout { text: TextColumns::Single("t".into()), label: "y".into(), quoting: Quoting::Minimal };
    let found = |content: &str| {
        std::fs::write(&path, content).unwrap();
        let labels = read_labels(&path, &layout).map_err(|error| error.to_string());
        labels.map_err(|error| error.replace(&path.display().to_string(), "train.json"))
    };
    let row = |label: &str| format!("{{\"t\": \"\", \"y\": {label}}}\n");
    let labels = found(&[row("10"), row("\"-\""), row("2"), row("\"10\""), row("-1")].concat()).unwrap();
    assert_eq!(labels.names(), ["-1", "10", "2"], "sorted as text, as run_classification.py does");
    let rows = read_rows(&path, &layout, &labels, Labels::Required).unwrap();
    assert_eq!(rows.rows.iter().map(|row| row.label).collect::<Vec<_>>(), [Some(1), Some(2), Some(1), Some(0)]);
    assert_eq!(rows.rows[0].text, Text::Single(String::new()));
    let one = "the labels of train.json, in y, cannot be used: 1 label given; expected at least 2";
    assert_eq!(found(&row("7")).unwrap_err(), one);
    assert_eq!(found(&row("\"-\"")).unwrap_err(), "train.json holds no row (1 lines with y \"-\" left out)");
    let many: String = (0..3006).map(|class| row(&(class / 3).to_string())).collect();
    let too_many = "the labels of train.json, in y, cannot be used: there are more than 1000 labels";
    assert_eq!(found(&many).unwrap_err(), too_many);
    let few: String = (0..20).map(|class| row(&class.to_string())).collect();
    assert_eq!(found(&few).unwrap().count(), 20);
    let texts: String = (0..40).map(|place| row(&format!("\"SECRET {place}\""))).collect();
    let no_classes = "train.json has 40 labels or more in 40 rows, which can be no classes; is y the column of the labels? Give \
                      --label_column_name, or list them with --labels";
    assert_eq!(found(&texts).unwrap_err(), no_classes);
    let missing = "train.json:2: y is missing; the line has t: give --label_column_name";
    assert_eq!(found(&[row("1"), "{\"t\": \"\"}".into()].concat()).unwrap_err(), missing);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(bytes, Labels::Required).is_err());
    }

    #[test]
    fn any_sentences_come_back(first in ".*", second in ".*", label in 0u32..3) {
        let labels = LabelSet::default();
        let line = serde_json::json!({"sentence1": first, "sentence2": second, "gold_label": labels.name(label)});
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, line.to_string()).unwrap();
        let pairs = read_rows(&path, &RowLayout::default(), &labels, Labels::Required).unwrap();
        let text = Text::Pair(first, second);
        prop_assert_eq!(&pairs.rows[..], &[Row { line: 1, text, label: Some(label), pair_id: None }][..]);
    }
}
