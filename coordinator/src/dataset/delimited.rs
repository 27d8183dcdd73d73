//! Records from files with commas or tabs between fields; the first line names the columns.

use std::io::BufRead;

use super::data_error::{LineProblem, plain_names};
use super::fields::FieldReader;
use super::format::{Column, Failure, Field, Record, Records};
use super::layout::Quoting;

/// The records of such a file.
pub(super) struct Delimited<R> {
    reader: FieldReader<R>,
    /// How many columns the first line names.
    width: usize,
    /// Where the columns are that were asked for.
    places: Vec<Option<usize>>,
    /// What to do about a record of another width.
    way_out: &'static str,
}

impl<R: BufRead> Delimited<R> {
    /// Reads the first line. Blocks.
    pub(super) fn open(reader: R, delimiter: u8, quoting: Quoting, columns: &[Column]) -> Result<Self, Failure> {
        let mut reader = FieldReader::new(reader, delimiter, quoting);
        let way_out = match (quoting, delimiter) {
            (Quoting::None, _) => {
                "as --quoting is none, no field may have one of these separators or an end of a line in it"
            }
            (Quoting::Minimal, b',') => "put a field with a comma or an end of a line in it in quotes",
            (Quoting::Minimal, _) => "put a field with a tab or an end of a line in it in quotes",
        };
        let Some(first) = reader.next()? else {
            // An empty file has no rows, which is for the caller to say.
            return Ok(Self { reader, width: 0, places: Vec::new(), way_out });
        };
        let line = first.line;
        let found = names(&first.texts().map_err(|problem| Failure::Line(line, problem))?, columns);
        let (width, places) = (first.count(), found.map_err(|problem| Failure::Line(line, problem))?);
        Ok(Self { reader, width, places, way_out })
    }
}

/// The place of each column among the `names` of the first line.
fn names(names: &[&str], columns: &[Column]) -> Result<Vec<Option<usize>>, LineProblem> {
    let place = |column: &Column| {
        let mut places =
            names.iter().enumerate().filter(|(_, name)| name.trim() == column.name).map(|(place, _)| place);
        match (places.next(), places.next(), column.flag) {
            (Some(_), Some(_), _) => Err(LineProblem::TwoColumns { column: column.name.clone() }),
            (None, _, Some(flag)) => {
                let present = plain_names(&names.iter().map(|name| name.trim()).collect::<Vec<_>>());
                Err(LineProblem::NoColumn { column: column.name.clone(), present, flag })
            }
            (place, _, _) => Ok(place),
        }
    };
    columns.iter().map(place).collect()
}

impl<R: BufRead + Send> Records for Delimited<R> {
    fn next(&mut self) -> Result<Option<Record>, Failure> {
        let Self { reader, width, places, way_out } = self;
        let Some(found) = reader.next()? else { return Ok(None) };
        let line = found.line;
        if found.count() != *width {
            let problem = LineProblem::Ragged { found: found.count(), expected: *width, way_out };
            return Err(Failure::Line(line, problem));
        }
        let texts = found.texts().map_err(|problem| Failure::Line(line, problem))?;
        let field = |place: &Option<usize>| place.map(|place| Field::Text(texts[place].to_owned()));
        Ok(Some(Record { line, fields: places.iter().map(field).collect() }))
    }
}

#[cfg(test)]
#[path = "delimited_test.rs"]
mod tests;
