use proptest::prelude::*;

use crate::dataset::format::RECORD_LIMIT_BYTES;
use crate::dataset::labels::LabelSet;
use crate::dataset::layout::{Quoting, RowLayout, TextColumns};
use crate::dataset::rows::{Labels, Rows, Text, read_rows};

const HEADER: &str = "pairID,sentence1,sentence2,gold_label";

fn layout(text: TextColumns) -> RowLayout {
    RowLayout { text, ..RowLayout::default() }
}

fn read_as(name: &str, content: &[u8], layout: &RowLayout, need: Labels) -> Result<Rows, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    read_rows(&path, layout, &LabelSet::default(), need).map_err(|error| {
        let text = error.to_string();
        assert!(!text.contains("SECRET") && !format!("{error:?}").contains("SECRET"), "{text}");
        text.replace(&path.display().to_string(), name)
    })
}

fn read(content: &str) -> Result<Rows, String> {
    read_as("train.csv", content.as_bytes(), &RowLayout::default(), Labels::Required)
}

fn refusal(content: &str) -> String {
    read(content).unwrap_err()
}

#[test]
fn rows_are_those_of_json_lines() {
    let texts =
        [("A, \"b\"\nc", "d\te", "neutral"), ("é", "", "contradiction"), ("x", "y", "-"), ("-1", "5", "entailment")];
    let mut json = String::new();
    let (mut comma, mut tab) = (String::from("\u{feff}"), String::new());
    comma.push_str("n,gold_label,sentence2,sentence1,pairID\r\n");
    tab.push_str("sentence1\tpairID\tsentence2\tgold_label\n");
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    for (number, (first, second, label)) in texts.into_iter().enumerate() {
        let id = format!("p{number}");
        let row = serde_json::json!({"sentence1": first, "sentence2": second, "gold_label": label, "pairID": id});
        json.push_str(&format!("{row}\n"));
        comma.push_str(&format!("{number},{label},{},{},{id}\r\n", quoted(second), quoted(first)));
        tab.push_str(&format!("{}\t{id}\t{}\t{label}\n", quoted(first), quoted(second)));
    }
    let read =
        |name, content: &str| read_as(name, content.as_bytes(), &RowLayout::default(), Labels::Required).unwrap();
    let expected = read("train.jsonl", &json);
    assert_eq!((expected.rows.len(), expected.no_consensus, expected.empty_sentences), (3, 1, 1));
    for (name, content, lines) in [("train.csv", comma, [2, 4, 6]), ("train.TSV", tab, [2, 4, 6])] {
        let mut found = read(name, &content);
        assert_eq!(found.rows.iter().map(|row| row.line).collect::<Vec<_>>(), lines, "where each begins");
        found.rows.iter_mut().zip(&expected.rows).for_each(|(row, as_json)| row.line = as_json.line);
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn the_first_line_names_the_columns() {
    let ours = layout(TextColumns::Pair("premise".into(), "hypothesis".into()));
    let content = "premise, hypothesis ,gold_label,note,note\nSECRET,b,neutral,,\n";
    let rows = read_as("t.csv", content.as_bytes(), &ours, Labels::Required).unwrap();
    assert_eq!(rows.rows[0].text, Text::Pair("SECRET".into(), "b".into()));
    assert_eq!(
        refusal(content),
        "train.csv:1: there is no column sentence1; the first line names premise, hypothesis, gold_label, note and note: \
         give --text_column_names"
    );
    assert_eq!(
        refusal("sentence1,sentence2,label\nSECRET,b,neutral\n"),
        "train.csv:1: there is no column gold_label; the first line names sentence1, sentence2 and label: give \
         --label_column_name"
    );
    assert_eq!(
        refusal("sentence1;sentence2;gold_label\nSECRET;b;neutral\n"),
        "train.csv:1: there is no column sentence1; the first line names sentence1;sentence2;gold_label: give \
         --text_column_names"
    );
    // Without such a line, the first row must not be told.
    assert_eq!(
        refusal("He has a SECRET cough.,He is SECRET too.,neutral\n"),
        "train.csv:1: there is no column sentence1; the first line names neutral and 2 more: give --text_column_names"
    );
    assert_eq!(
        refusal("sentence1,sentence2,sentence1,gold_label\n"),
        "train.csv:1: the first line names the column sentence1 twice; rename one of them"
    );
}

#[test]
fn labels_may_be_missing_where_rows_are_predicted() {
    let optional = |content: &str| read_as("test.csv", content.as_bytes(), &RowLayout::default(), Labels::Optional);
    let rows = optional("sentence1,sentence2\na,b\n").unwrap();
    assert_eq!((rows.rows[0].label, rows.unlabelled), (None, 1));
    let rows = optional(&format!("{HEADER}\n1,a,b,\n2,a,b,neutral\n3,a,b,-\n")).unwrap();
    assert_eq!((rows.rows.len(), rows.unlabelled, rows.no_consensus), (2, 1, 1));
    assert_eq!((rows.rows[1].label, rows.rows[1].pair_id.as_deref()), (Some(1), Some("2")));
    assert_eq!(
        refusal(&format!("{HEADER}\n1,a,b,\n")),
        "train.csv:2: gold_label is missing; expected entailment, neutral or contradiction"
    );
}

#[test]
fn wrong_files_are_named_by_line() {
    for (content, problem) in [
        ("", "train.csv holds no row".to_owned()),
        ("\n\r\n", "train.csv holds no row".to_owned()),
        (HEADER, "train.csv holds no row".to_owned()),
        (&format!("{HEADER}\r\n\r\n"), "train.csv holds no row".to_owned()),
        (
            &format!("{HEADER}\n1,a,SECRET, b,neutral\n"),
            "train.csv:2: 5 fields, but the first line names 4 columns; put a field with a comma or an end of a line in it \
             in quotes"
                .to_owned(),
        ),
        (
            &format!("{HEADER}\n1,\"a\n\",b,neutral\n2,SECRET\n"),
            "train.csv:4: 2 fields, but the first line names 4 columns; put a field with a comma or an end of a line in it \
             in quotes"
                .to_owned(),
        ),
        (
            &format!("{HEADER}\n1,\"a\n\",b,maybe\n"),
            "train.csv:2: gold_label is \"maybe\"; expected entailment, neutral or contradiction".to_owned(),
        ),
    ] {
        assert_eq!(refusal(content), problem);
    }
    let latin = [HEADER.as_bytes(), b"\n1,caf\xe9,b,neutral\n"].concat();
    let told = read_as("train.csv", &latin, &RowLayout::default(), Labels::Required).unwrap_err();
    assert_eq!(told, "train.csv:2: field 2 is not UTF-8; save the file as UTF-8");
    let wide: Vec<u8> = "\u{feff}a\tb".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let told = read_as("train.tsv", &wide, &RowLayout::default(), Labels::Required).unwrap_err();
    assert_eq!(told, "train.tsv:1: field 1 is not UTF-8; save the file as UTF-8");
}

#[test]
fn a_field_without_end_is_not_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.csv");
    std::fs::write(&path, format!("{HEADER}\n1,\"")).unwrap();
    // A hole of 64 GiB: reading it whole would neither fit nor end.
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(64 << 30).unwrap();
    let told = read_rows(&path, &RowLayout::default(), &LabelSet::default(), Labels::Required).unwrap_err().to_string();
    assert!(told.ends_with(&format!("train.csv:2: the line has more than {RECORD_LIMIT_BYTES} bytes")), "{told}");
}

#[test]
fn quotes_are_text_where_that_is_asked_for() {
    let content = "sentence1\tsentence2\tgold_label\n\"No,\" he said\tb\tneutral\n";
    let plain = RowLayout { quoting: Quoting::None, ..RowLayout::default() };
    let rows = read_as("glue.tsv", content.as_bytes(), &plain, Labels::Required).unwrap();
    assert_eq!(rows.rows[0].text, Text::Pair("\"No,\" he said".into(), "b".into()));
    let told = read_as("glue.tsv", content.as_bytes(), &RowLayout::default(), Labels::Required).unwrap_err();
    assert!(told.starts_with("glue.tsv:2: field 1 goes on after its closing quote") && told.contains("--quoting none"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), tabs in any::<bool>()) {
        let (name, separator) = if tabs { ("t.tsv", "\t") } else { ("t.csv", ",") };
        let content = [HEADER.replace(',', separator).as_bytes(), b"\n", &bytes].concat();
        for need in [Labels::Required, Labels::Optional] {
            match read_as(name, &content, &RowLayout::default(), need) {
                Ok(rows) => prop_assert!(!rows.rows.is_empty() && rows.rows.is_sorted_by_key(|row| row.line)),
                Err(told) => prop_assert!(told.starts_with(name), "{}", told),
            }
        }
    }
}
