use proptest::prelude::*;

use super::*;

type Split = Result<Vec<(u64, Vec<String>)>, String>;

/// The records of `content`, each with its line.
fn split(content: &[u8], delimiter: u8, quoting: Quoting) -> Split {
    // A small buffer, so that everything lies across its edges at times.
    let reader = std::io::BufReader::with_capacity(3, content);
    let mut reader = FieldReader::new(reader, delimiter, quoting);
    let mut records = Vec::new();
    let told = |failure: Failure| failure.of(std::path::Path::new("f")).to_string();
    while let Some(fields) = reader.next().map_err(told)? {
        let texts = fields.texts().map_err(|problem| told(Failure::Line(fields.line, problem)))?;
        records.push((fields.line, texts.into_iter().map(str::to_owned).collect()));
    }
    Ok(records)
}

fn csv(content: &str) -> Split {
    split(content.as_bytes(), b',', Quoting::Minimal)
}

fn records<const N: usize>(records: [(u64, &[&str]); N]) -> Split {
    Ok(records.map(|(line, fields)| (line, fields.iter().map(|field| (*field).to_owned()).collect())).to_vec())
}

#[test]
fn quotes_keep_what_would_end_a_field() {
    let content = "a,\"b, c\"\n\"d\ne\r\nf\",\"say \"\"no\"\"\"\n5\" nail,\n\"\",\"\"\"\"\n";
    let expected: [(u64, &[&str]); 4] =
        [(1, &["a", "b, c"]), (2, &["d\ne\r\nf", "say \"no\""]), (5, &["5\" nail", ""]), (6, &["", "\""])];
    assert_eq!(csv(content), records(expected));
}

#[test]
fn lines_end_in_three_ways_and_empty_ones_are_none() {
    for end in ["\n", "\r\n", "\r"] {
        let content = ["a,b", "", "c,d", "", "", ","].join(end);
        let expected: [(u64, &[&str]); 3] = [(1, &["a", "b"]), (3, &["c", "d"]), (6, &["", ""])];
        assert_eq!(csv(&content), records(expected), "{end:?}");
        assert_eq!(csv(&format!("{content}{end}")), records(expected), "{end:?}");
    }
    let expected: [(u64, &[&str]); 3] = [(1, &["a"]), (2, &[""]), (4, &["b"])];
    assert_eq!(csv("a\n\"\"\n\nb"), records(expected), "an empty text in quotes is a text");
    assert_eq!(csv(""), records([]));
}

#[test]
fn quotes_that_make_no_field_are_refused() {
    let after =
        "field 2 goes on after its closing quote; double a quote that belongs to the text, or give --quoting none";
    assert_eq!(csv("a,b\nc,\"d\" e\n"), Err(format!("f:2: {after}")));
    // A stray quote takes in what follows, to the next one.
    assert_eq!(csv("a,\"b\nc,\"d\n"), Err(format!("f:2: {after}")));
    let unclosed = "the quote that field 2 begins with is not closed; double a quote that belongs to the text, or give \
                    --quoting none";
    assert_eq!(csv("a,b\nc,\"d\ne,f\n"), Err(format!("f:2: {unclosed}")));
    assert_eq!(csv("a,\""), Err(format!("f:1: {unclosed}")));
}

#[test]
fn quotes_may_be_text() {
    let content = b"\"a\tb\"\nsay \"no\"\t\"\n";
    let expected: [(u64, &[&str]); 2] = [(1, &["\"a", "b\""]), (2, &["say \"no\"", "\""])];
    assert_eq!(split(content, b'\t', Quoting::None), records(expected));
}

#[test]
fn a_field_that_is_no_text_is_named() {
    let problem = "f:2: field 2 is not UTF-8; save the file as UTF-8";
    assert_eq!(split(b"a,b\nc,\xff\n", b',', Quoting::Minimal), Err(problem.to_owned()));
    // Halves of a character do not make one across fields.
    assert!(split(b"\xc3,\xa4", b',', Quoting::Minimal).is_err());
}

/// Python's `csv` and pandas quote as this library does.
fn written(records: &[Vec<String>], style: csv::QuoteStyle, end: csv::Terminator) -> Vec<u8> {
    let mut writer =
        csv::WriterBuilder::new().flexible(true).quote_style(style).terminator(end).from_writer(Vec::new());
    records.iter().for_each(|record| writer.write_record(record).unwrap());
    writer.into_inner().unwrap()
}

fn any_records() -> impl Strategy<Value = Vec<Vec<String>>> {
    let field = "[ab\",\r\n é]{0,6}";
    prop::collection::vec(prop::collection::vec(field, 1..4), 0..5)
}

proptest! {
    #[test]
    fn what_the_csv_crate_writes_comes_back(records in any_records(), style in 0..2usize, end in 0..2usize) {
        let style = [csv::QuoteStyle::Necessary, csv::QuoteStyle::Always][style];
        let end = [csv::Terminator::CRLF, csv::Terminator::Any(b'\n')][end];
        let read = split(&written(&records, style, end), b',', Quoting::Minimal);
        let read: Vec<_> = read.unwrap().into_iter().map(|(_, fields)| fields).collect();
        prop_assert_eq!(read, records);
    }

    #[test]
    fn what_is_not_refused_is_what_the_csv_crate_reads(content in "[ab\",\r\n]{0,24}") {
        if let Ok(read) = csv(&content) {
            let mut reader = csv::ReaderBuilder::new();
            let mut reader = reader.flexible(true).has_headers(false).from_reader(content.as_bytes());
            let expected: Vec<Vec<String>> =
                reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect();
            prop_assert_eq!(read.into_iter().map(|(_, fields)| fields).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn any_bytes_are_split_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), quoted in any::<bool>()) {
        let quoting = if quoted { Quoting::Minimal } else { Quoting::None };
        match split(&bytes, b'\t', quoting) {
            Ok(records) => prop_assert!(records.is_sorted_by_key(|(line, _)| *line)),
            Err(told) => prop_assert!(told.starts_with("f:"), "{}", told),
        }
    }
}
