//! How results are shown: a table for people, one JSON object for programs.

use std::io::{self, Write};

use serde_json::{Map, Value};

use crate::failure::Failure;

/// What a command has to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// For people; ends with a line feed unless empty.
    pub text: String,
    /// For programs: an object with a "schema" field.
    pub json: Value,
}

impl Output {
    /// A result in the form `schema` ("caplane.agents/1"): the fields of `json`, an object, beside it.
    #[must_use]
    pub fn new(schema: &str, json: Value, text: impl Into<String>) -> Self {
        let mut object = Map::from_iter([("schema".to_owned(), Value::from(schema))]);
        match json {
            Value::Object(fields) => object.extend(fields),
            other => {
                object.insert("value".to_owned(), other);
            }
        }
        Self {
            text: text.into(),
            json: Value::Object(object),
        }
    }

    /// Writes the form asked for. A reader that has gone away ("| head") is no error.
    ///
    /// # Errors
    /// Any other error of standard output.
    pub fn print(&self, as_json: bool) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let written = if as_json {
            writeln!(out, "{:#}", self.json)
        } else {
            out.write_all(self.text.as_bytes())
        };
        match written.and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// A table with aligned columns.
#[derive(Debug, Clone, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this heading.
    #[must_use]
    pub fn new(heading: &[&str]) -> Self {
        Self {
            rows: vec![heading.iter().map(|cell| (*cell).to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows
            .push(cells.into_iter().map(|cell| clean(&cell.into())).collect());
    }

    /// The table as text; `nothing` when there is no row.
    #[must_use]
    pub fn render(&self, nothing: &str) -> String {
        if self.rows.len() == 1 {
            return format!("{nothing}\n");
        }
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns)
            .map(|column| width(column).unwrap_or_default())
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A text from elsewhere, fit for a terminal: a control character could rewrite the screen.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_control_characters_stay_out() {
        let mut table = Table::new(&["NAME", "LABEL"]);
        assert_eq!(table.render("none"), "none\n");
        table.row(["zürich", "a"]);
        table.row(["b\x1b[2J", "class:1"]);
        assert_eq!(
            table.render(""),
            "NAME    LABEL\nzürich  a\nb\u{fffd}[2J   class:1\n"
        );
    }

    #[test]
    fn json_carries_its_schema_first() {
        let output = Output::new("caplane.agents/1", serde_json::json!({"agents": []}), "");
        assert_eq!(
            output.json.to_string(),
            r#"{"agents":[],"schema":"caplane.agents/1"}"#
        );
    }
}
