use std::io::Write as _;
use std::path::Path;

use super::*;
use crate::cli::ColumnChoice;
use crate::dataset::layout::RowLayout;
use crate::model_folder::{ModelFolder, Start};

const ROW: &str = r#"{"sentence1": "a b", "sentence2": "c", "pairID": "x"}"#;

fn encoder(max_seq_length: u32) -> Encoder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-bert/model");
    let folder = ModelFolder::open(&path, Start::Pretrained).unwrap();
    let labels = folder.classifier_labels().unwrap();
    Encoder::new(folder, labels, max_seq_length).unwrap()
}

fn reading() -> Reading {
    Reading::new(ColumnChoice::default(), None).unwrap()
}

/// What a file with this content is offered as: rows of each chunk, their lines, and the last word.
fn offered(content: &str, need: Labels) -> (Vec<usize>, Vec<u64>, String) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    let feed = Feed::open(Source::File(file.path().into()), encoder(64), (reading(), need)).unwrap();
    follow(feed, &file.path().display().to_string())
}

fn follow(feed: Feed, name: &str) -> (Vec<usize>, Vec<u64>, String) {
    let (answers, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let handle = feed.start(answers);
    let (mut chunks, mut lines) = (Vec::new(), Vec::new());
    loop {
        match heard.blocking_recv() {
            Some(Answer::Input(Input::Offered(rows))) => {
                assert_eq!((rows.lengths.len(), rows.labels.len()), (rows.examples.len(), rows.examples.len()));
                chunks.push(rows.examples.len());
                lines.extend(handle.origins.try_recv().unwrap().into_iter().map(|origin| origin.line));
                assert!(heard.try_recv().is_err(), "one chunk at a time");
                handle.permits.send(()).unwrap();
            }
            Some(Answer::Input(Input::Exhausted)) => return (chunks, lines, "end".to_owned()),
            Some(Answer::Input(Input::Broken(failure))) => {
                return (chunks, lines, failure.message.replace(name, "rows"));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_file_is_offered_in_full_chunks() {
    let rows = 2 * CHUNK_ROWS + 3;
    let (chunks, lines, end) = offered(&format!("{ROW}\n").repeat(rows), Labels::Optional);
    assert_eq!((chunks, end.as_str()), (vec![CHUNK_ROWS, CHUNK_ROWS, 3], "end"));
    assert!(lines.into_iter().eq(1..=rows as u64));
    let exact = offered(&format!("{ROW}\n").repeat(CHUNK_ROWS), Labels::Optional);
    assert_eq!((exact.0, exact.2.as_str()), (vec![CHUNK_ROWS], "end"));
}

#[test]
fn rows_before_a_bad_one_come_first() {
    let (chunks, lines, end) = offered(&format!("{ROW}\n\n{ROW}\n{{\n{ROW}\n"), Labels::Optional);
    assert_eq!((chunks, lines), (vec![2], vec![1, 3]));
    assert!(end.starts_with("rows:4: not JSON"), "{end}");
    let (chunks, _, end) = offered(ROW, Labels::Required);
    assert_eq!(chunks, Vec::<usize>::new());
    assert!(end.starts_with("rows:1: gold_label is missing"), "{end}");
}

#[test]
fn no_rows_have_no_predictions_and_no_measure() {
    let skipped = ROW.replace("\"pairID\": \"x\"", "\"gold_label\": \"-\"");
    assert_eq!(offered(&skipped, Labels::Optional), (vec![], vec![], "end".to_owned()));
    assert_eq!(offered("\n", Labels::Required).2, "rows holds no row");
}

#[test]
fn a_pair_is_one_row() {
    let source = Source::Pair { premise: "a".to_owned(), hypothesis: "b".to_owned() };
    let feed = Feed::open(source, encoder(64), (reading(), Labels::Optional)).unwrap();
    assert_eq!(follow(feed, "-"), (vec![1], vec![1], "end".to_owned()));
}

/// Who writes rows and waits for answers is not kept waiting for a full chunk.
#[test]
fn a_pipe_is_answered_as_it_is_written() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let encoder = encoder(64);
    let (need, column) = (Labels::Optional, "gold_label".to_owned());
    let stream = RowStream::of_json_lines(reader, Path::new("pipe"), &RowLayout::default(), (&encoder.labels, need));
    let feed = Feed { name: "pipe".into(), column, rows: Rows::Stream(stream), pace: Pace::AsTheyCome, need, encoder };
    let (answers, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let handle = feed.start(answers);
    for line in 1..=3 {
        writer.write_all(format!("{ROW}\n").as_bytes()).unwrap();
        assert!(matches!(heard.blocking_recv(), Some(Answer::Input(Input::Offered(rows))) if rows.examples.len() == 1));
        assert_eq!(handle.origins.recv().unwrap()[0].line, line);
        handle.permits.send(()).unwrap();
    }
    drop(writer);
    assert!(matches!(heard.blocking_recv(), Some(Answer::Input(Input::Exhausted))));
}
