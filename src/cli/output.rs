//! The one writer of the program: answers on standard output (as a table, JSON or YAML), notes and
//! errors on standard error.

use std::io::{self, BufWriter, Write};
use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use super::failure::{Exit, Failure};
use crate::rpc::proto::DESCRIPTORS;

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// The API's messages, in protobuf's JSON mapping.
    Json,
    /// The same as YAML.
    Yaml,
}

/// The writer.
pub(super) struct Out {
    stdout: Box<dyn Write>,
    stderr: Box<dyn Write>,
    format: Format,
    quiet: bool,
}

impl Out {
    /// To the standard streams.
    pub(super) fn process() -> Self {
        Self::new(Box::new(BufWriter::new(io::stdout())), Box::new(io::stderr()))
    }

    fn new(stdout: Box<dyn Write>, stderr: Box<dyn Write>) -> Self {
        Self { stdout, stderr, format: Format::Table, quiet: false }
    }

    /// Says how to print.
    pub(super) fn set_up(&mut self, format: Format, quiet: bool) {
        (self.format, self.quiet) = (format, quiet);
    }

    /// How answers are printed.
    pub(super) const fn format(&self) -> Format {
        self.format
    }

    /// Whether only what a script needs is printed.
    pub(super) const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Writes text as it is.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Failure> {
        Ok(self.stdout.write_all(text.as_bytes())?)
    }

    /// Writes a line.
    pub(super) fn line(&mut self, line: &str) -> Result<(), Failure> {
        Ok(writeln!(self.stdout, "{line}")?)
    }

    /// Says something beside the answer. That it cannot be said stops nothing.
    pub(super) fn note(&mut self, note: &str) {
        let _ = self.stdout.flush();
        let _ = writeln!(self.stderr, "{note}");
    }

    /// Asks for something, on the same line.
    pub(super) fn prompt(&mut self, prompt: &str) {
        let _ = self.stdout.flush();
        let _ = write!(self.stderr, "{prompt}").and_then(|()| self.stderr.flush());
    }

    /// Says why the command failed.
    pub(super) fn failure(&mut self, failure: &Failure) {
        let _ = self.stdout.flush();
        if !failure.text().is_empty() {
            self.note(&format!("error: {}", failure.text()));
        }
    }

    /// Writes what is left.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.stdout.flush()?)
    }

    /// Writes an answer of the API: a table in the words of `table`, or the message `name`.
    pub(super) fn answer(
        &mut self,
        name: &str,
        message: &impl Message,
        table: impl FnOnce() -> Table,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&table().render()),
            Format::Json => {
                let mut json = Vec::new();
                let mut writer = serde_json::Serializer::pretty(&mut json);
                serialize(name, message, &mut writer)?;
                json.push(b'\n');
                Ok(self.stdout.write_all(&json)?)
            }
            Format::Yaml => {
                let mut yaml = Vec::new();
                serialize(name, message, &mut serde_yaml_ng::Serializer::new(&mut yaml))?;
                Ok(self.stdout.write_all(&yaml)?)
            }
        }
    }
}

static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());

/// Serializes the message `keyclasp.v1.{name}` in protobuf's JSON mapping, fields without a value
/// included, so that a script finds an empty list where there is one.
fn serialize<S: serde::Serializer>(name: &str, message: &impl Message, serializer: S) -> Result<(), Failure> {
    let broken = |problem: String| Failure::refused(format!("a bug in keyclasp: {name} cannot be printed: {problem}"));
    let pool = POOL.as_ref().ok_or_else(|| broken("no descriptors".to_owned()))?;
    let descriptor = pool.get_message_by_name(&format!("keyclasp.v1.{name}"));
    let descriptor = descriptor.ok_or_else(|| broken("no descriptor".to_owned()))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice());
    let options = SerializeOptions::new().skip_default_fields(false);
    let dynamic = dynamic.map_err(|error| broken(error.to_string()))?;
    dynamic.serialize_with_options(serializer, &options).map_err(|error| broken(error.to_string()))?;
    Ok(())
}

/// A table for people.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    after: Vec<String>,
}

impl Table {
    /// With a line of column names.
    pub(super) fn with_columns(columns: &[&str]) -> Self {
        Self { rows: vec![columns.iter().map(|name| (*name).to_owned()).collect()], after: Vec::new() }
    }

    /// Names and values, one pair a line; pairs without a value are left out.
    pub(super) fn of_fields(fields: Vec<(&str, String)>) -> Self {
        let shown = fields.into_iter().filter(|(_, value)| !value.is_empty());
        Self { rows: shown.map(|(name, value)| vec![name.to_owned(), value]).collect(), after: Vec::new() }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Adds a line of text below.
    pub(super) fn below(&mut self, line: impl Into<String>) {
        self.after.push(line.into());
    }

    /// The text, columns aligned.
    pub(super) fn render(&self) -> String {
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        for line in &self.after {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// Text that cannot do anything to a terminal: what others wrote may be meant to.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            character if character.is_control() => printable.extend(character.escape_default()),
            character => printable.push(character),
        }
    }
    printable
}

/// The exit code of an answer.
pub(super) const fn done_if(good: bool) -> Exit {
    if good { Exit::Done } else { Exit::Refused }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::rpc::proto::v1;

    #[derive(Clone, Default)]
    struct Sink(Rc<RefCell<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printed(format: Format, message: &v1::GetKeyResponse) -> String {
        let sink = Sink::default();
        let mut out = Out::new(Box::new(sink.clone()), Box::new(io::sink()));
        out.set_up(format, false);
        out.answer("GetKeyResponse", message, || Table::of_fields(vec![("id", "x".to_owned())])).unwrap();
        String::from_utf8(sink.0.take()).unwrap()
    }

    fn message() -> v1::GetKeyResponse {
        v1::GetKeyResponse {
            key: Some(v1::Key {
                id: "abc".to_owned(),
                status: v1::KeyStatus::Active.into(),
                created_at: Some(prost_types::Timestamp { seconds: 0, nanos: 1_000_000 }),
                version: 7,
                ..v1::Key::default()
            }),
        }
    }

    #[test]
    fn json_is_protobufs_mapping_with_empty_fields() {
        let json: serde_json::Value = serde_json::from_str(&printed(Format::Json, &message())).unwrap();
        let key = &json["key"];
        assert_eq!(key["id"], "abc");
        assert_eq!(key["status"], "KEY_STATUS_ACTIVE");
        assert_eq!(key["createdAt"], "1970-01-01T00:00:00.001Z");
        assert_eq!(key["version"], "7", "64-bit numbers are strings in the mapping");
        assert_eq!(key["scopes"], serde_json::json!([]));
        assert!(key.get("expiresAt").is_none());
    }

    #[test]
    fn yaml_has_the_same_structure() {
        let yaml: serde_json::Value = serde_yaml_ng::from_str(&printed(Format::Yaml, &message())).unwrap();
        let json: serde_json::Value = serde_json::from_str(&printed(Format::Json, &message())).unwrap();
        assert_eq!(yaml, json);
    }

    #[test]
    fn tables_are_aligned_and_harmless() {
        let mut table = Table::with_columns(&["ID", "NAME", "X"]);
        table.row(vec!["é".to_owned(), "a".to_owned(), "1".to_owned()]);
        table.row(vec!["long".to_owned(), "\u{1b}[31m\n".to_owned(), String::new()]);
        table.below("2 keys");
        assert_eq!(table.render(), "ID    NAME          X\né     a             1\nlong  \\u{1b}[31m\\n\n2 keys\n");
        assert_eq!(printed(Format::Table, &message()), "id  x\n");
    }
}
