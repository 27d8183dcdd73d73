//! Which columns of a file make a row, by name, whatever its format.

/// The texts of a row, by the names of their columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextColumns {
    /// One sentence: `[CLS] sentence [SEP]`.
    Single(String),
    /// Two sentences: `[CLS] first [SEP] second [SEP]`.
    Pair(String, String),
}

impl TextColumns {
    /// The columns' names, one or two.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Self::Single(only) => (only, None),
            Self::Pair(first, second) => (first, Some(second)),
        };
        std::iter::once(first).chain(second).map(String::as_str)
    }
}

/// What quotes mean in a file whose fields are separated by commas or tabs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quoting {
    /// A field that begins with one goes to the next that is not doubled, over commas, tabs and ends of lines.
    Minimal,
    /// Nothing: a quote is a character like any other, and no field has a comma, a tab or an end of a line in it.
    None,
}

/// How a file's records are read as rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowLayout {
    /// The columns of the texts.
    pub text: TextColumns,
    /// The column of the label.
    pub label: String,
    /// What quotes mean.
    pub quoting: Quoting,
}

impl Default for RowLayout {
    /// MedNLI's.
    fn default() -> Self {
        let text = TextColumns::Pair("sentence1".to_owned(), "sentence2".to_owned());
        Self { text, label: "gold_label".to_owned(), quoting: Quoting::Minimal }
    }
}
