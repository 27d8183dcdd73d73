//! How rows are read for a model: as the run that made it read its own, unless flags name other columns.

use medley_common::message::{Failure, FailureKind};

use crate::cli::ColumnChoice;
use crate::dataset::layout::{RowLayout, TextColumns};
use crate::dataset::rows::Text;
use crate::spec::{Baseline, Sources};

/// How rows are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    /// Which columns make a row.
    pub(super) layout: RowLayout,
    /// Which of two texts alone is read, if only one is; `layout` has that one.
    baseline: Option<Baseline>,
}

impl Reading {
    /// Reading by `chosen` columns, else by those of the run that made the model; `made` is what that read, if it is known.
    ///
    /// # Errors
    /// The run read one text, and two are named, or the other way round.
    pub(super) fn new(chosen: ColumnChoice, made: Option<&Sources>) -> Result<Self, Failure> {
        let own = made.map(|made| made.layout.clone()).unwrap_or_default();
        let baseline = made.and_then(|made| made.baseline);
        let text = match (chosen.text, baseline) {
            (None, _) => own.text,
            (Some(TextColumns::Pair(first, _)), Some(Baseline::Premise)) => TextColumns::Single(first),
            (Some(TextColumns::Pair(_, second)), Some(Baseline::Hypothesis)) => TextColumns::Single(second),
            (Some(text), _) => {
                let (named, read) = (text.names().count(), own.text.names().count());
                if made.is_some() && named != read {
                    return Err(refused(format!(
                        "--text_column_names names {}, but the run that made the model read {}: name as many",
                        columns(named),
                        columns(read)
                    )));
                }
                text
            }
        };
        let layout = RowLayout {
            text,
            label: chosen.label.unwrap_or(own.label),
            quoting: chosen.quoting.unwrap_or(own.quoting),
        };
        Ok(Self { layout, baseline })
    }

    /// What the model is to read of a pair.
    ///
    /// # Errors
    /// It reads single sentences.
    pub(super) fn text(&self, premise: String, hypothesis: String) -> Result<Text, Failure> {
        match (&self.layout.text, self.baseline) {
            (TextColumns::Pair(..), _) => Ok(Text::Pair(premise, hypothesis)),
            (TextColumns::Single(_), Some(Baseline::Premise)) => Ok(Text::Single(premise)),
            (TextColumns::Single(_), Some(Baseline::Hypothesis)) => Ok(Text::Single(hypothesis)),
            (TextColumns::Single(column), None) => Err(refused(format!(
                "--premise and --hypothesis are two sentences, but the run that made the model read one, {column}: give rows \
                 in a file or on standard input"
            ))),
        }
    }
}

fn columns(count: usize) -> &'static str {
    if count == 1 { "one column" } else { "two columns" }
}

fn refused(message: String) -> Failure {
    Failure { kind: FailureKind::Config, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Cli};
    use crate::dataset::layout::Quoting;

    /// What a run with these flags reads.
    fn made(flags: &str) -> Sources {
        let command = format!("medley train --model_name_or_path m --do_train --train_file t --output_dir o {flags}");
        let Cli::Train(spec) = cli::parse(command.split_whitespace()).unwrap() else { panic!() };
        spec.sources().clone()
    }

    fn text(names: &[&str]) -> TextColumns {
        match names {
            [only] => TextColumns::Single((*only).to_owned()),
            [first, second] => TextColumns::Pair((*first).to_owned(), (*second).to_owned()),
            _ => panic!("{names:?}"),
        }
    }

    fn chosen(names: &[&str]) -> ColumnChoice {
        ColumnChoice { text: Some(text(names)), ..ColumnChoice::default() }
    }

    fn pair(reading: &Reading) -> Result<Text, String> {
        reading.text("a".to_owned(), "b".to_owned()).map_err(|failure| failure.message)
    }

    #[test]
    fn columns_are_those_of_the_run_unless_others_are_named() {
        let made = made("--text_column_names one,two --label_column_name y");
        let reading = Reading::new(ColumnChoice::default(), Some(&made)).unwrap();
        assert_eq!(reading.layout, made.layout);
        let other =
            ColumnChoice { label: Some("z".to_owned()), quoting: Some(Quoting::None), ..chosen(&["three", "four"]) };
        let layout = RowLayout { text: text(&["three", "four"]), label: "z".to_owned(), quoting: Quoting::None };
        assert_eq!(Reading::new(other, Some(&made)).unwrap().layout, layout);
        let unknown = Reading::new(chosen(&["only"]), None).unwrap().layout;
        assert_eq!(unknown, RowLayout { text: text(&["only"]), ..RowLayout::default() });
    }

    #[test]
    fn a_baseline_reads_its_text_alone() {
        for (flag, column, read) in [("--premise_only", "p", "a"), ("--hypothesis_only", "h", "b")] {
            let reading = Reading::new(chosen(&["p", "h"]), Some(&made(flag))).unwrap();
            assert_eq!(reading.layout.text, text(&[column]), "{flag}");
            assert_eq!(pair(&reading), Ok(Text::Single(read.to_owned())), "{flag}");
        }
    }

    #[test]
    fn another_number_of_texts_is_refused() {
        let single = made("--text_column_names text");
        let reading = Reading::new(ColumnChoice::default(), Some(&single)).unwrap();
        assert!(pair(&reading).unwrap_err().contains("read one, text: give rows in a file"));
        let refused = |names: &[&str], made: &Sources| Reading::new(chosen(names), Some(made)).unwrap_err().message;
        let both =
            "--text_column_names names two columns, but the run that made the model read one column: name as many";
        assert_eq!(refused(&["a", "b"], &single), both);
        let one =
            "--text_column_names names one column, but the run that made the model read two columns: name as many";
        assert_eq!(refused(&["a"], &made("")), one);
    }
}
