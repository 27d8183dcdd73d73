use super::*;
use crate::cli::tests::with;
use crate::spec::LabelChoice;

fn read(flags: &str) -> (TextColumns, String, Option<Baseline>) {
    let spec = with(flags).unwrap();
    let sources = spec.sources().clone();
    (sources.layout.text, sources.layout.label, sources.baseline)
}

fn single(name: &str) -> TextColumns {
    TextColumns::Single(name.to_owned())
}

fn pair(first: &str, second: &str) -> TextColumns {
    TextColumns::Pair(first.to_owned(), second.to_owned())
}

#[test]
fn columns_are_those_that_are_named() {
    let label = || "gold_label".to_owned();
    assert_eq!(read(""), (pair("sentence1", "sentence2"), label(), None));
    assert_eq!(read("--text-column-names premise,hypothesis"), (pair("premise", "hypothesis"), label(), None));
    assert_eq!(read("--text_column_names text --label_column_name y"), (single("text"), "y".to_owned(), None));
}

#[test]
fn a_baseline_reads_one_text_of_two() {
    let label = || "gold_label".to_owned();
    assert_eq!(read("--hypothesis_only"), (single("sentence2"), label(), Some(Baseline::Hypothesis)));
    assert_eq!(read("--premise_only"), (single("sentence1"), label(), Some(Baseline::Premise)));
    let named = read("--text_column_names a,b --hypothesis_only True --premise_only False");
    assert_eq!(named, (single("b"), label(), Some(Baseline::Hypothesis)));
}

#[test]
fn quotes_are_of_files_that_have_them() {
    let notes = |flags: &str| -> Vec<String> { with(flags).unwrap().notes().iter().map(ToString::to_string).collect() };
    assert_eq!(notes("--quoting none"), ["note: --quoting has no effect: no file ends with .csv or .tsv"]);
    assert_eq!(notes("--quoting none --train_file t.TSV"), Vec::<String>::new());
    assert_eq!(with("--quoting none").unwrap().sources().layout.quoting, Quoting::None);
}

#[test]
fn labels_are_named_or_found() {
    let labels = |flags: &str| with(flags).unwrap().sources().labels.clone();
    assert_eq!(labels("--labels auto"), LabelChoice::Auto);
    assert_eq!(labels("--labels 0,1"), LabelChoice::Named(vec!["0".to_owned(), "1".to_owned()]));
    assert_eq!(labels("--labels auto,b"), LabelChoice::Named(vec!["auto".to_owned(), "b".to_owned()]));
}
