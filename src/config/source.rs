//! What a configuration is read from, before anything is understood: a TOML file and the
//! environment, as one tree in which each value knows its place.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Problems};

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line of a file.
    File(Arc<Path>, usize),
    /// A variable of the environment.
    Env(String),
    /// Nowhere: it is a default, or is missing.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Line 0: the file as a whole.
            Self::File(path, 0) => write!(f, "{}", path.display()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => f.write_str(name),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Raw,
}

/// A value that nobody has understood yet.
#[derive(Debug, Clone)]
pub(super) enum Raw {
    /// Text of the environment: its setting says what it is.
    Env(String),
    String(String),
    Integer(i64),
    Boolean(bool),
    Array(Vec<Node>),
    Table(Table),
    /// What no setting takes: a float, a date.
    Other,
}

/// A table and its place.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) place: Place,
    pub(super) entries: BTreeMap<String, Node>,
}

impl Table {
    pub(super) const fn empty(place: Place) -> Self {
        Self { place, entries: BTreeMap::new() }
    }

    /// Takes the table called `name` out; empty if there is none, and if it is no table, which is
    /// a problem.
    pub(super) fn take_table(&mut self, name: &str, path: &str, problems: &mut Problems) -> Table {
        match self.entries.remove(name) {
            None => Table::empty(Place::Nowhere),
            Some(Node { value: Raw::Table(table), .. }) => table,
            Some(Node { place, .. }) => {
                problems.push(Problem::new(place, path, "is not a table", format!("write it as [{path}]")));
                Table::empty(Place::Nowhere)
            }
        }
    }

    /// Takes the array of tables called `name` out.
    pub(super) fn take_tables(&mut self, name: &str, path: &str, problems: &mut Problems) -> Vec<Table> {
        let mut tables = Vec::new();
        let mut refuse = |place| {
            problems.push(Problem::new(place, path, "is not a list of tables", format!("write each as [[{path}]]")));
        };
        match self.entries.remove(name) {
            None => {}
            Some(Node { value: Raw::Array(nodes), .. }) => {
                for node in nodes {
                    match node.value {
                        Raw::Table(table) => tables.push(table),
                        _ => refuse(node.place),
                    }
                }
            }
            Some(Node { place, .. }) => refuse(place),
        }
        tables
    }
}

/// Parses a TOML document. What is wrong with its syntax goes into `problems`; the rest is
/// answered all the same, so that one run shows everything.
pub(super) fn parse(text: &str, path: &Path, problems: &mut Problems) -> Table {
    let lines = Lines { path: path.into(), text };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        // The message names what was expected; the text around it, which may hold a secret, stays out.
        let at = error.span().map_or(Place::File(Arc::clone(&lines.path), 0), |span| lines.place(span.start));
        problems.push(Problem::new(
            at,
            "",
            format!("is not TOML here: {}", one_line(error.message())),
            "mend the line",
        ));
    }
    let place = Place::File(Arc::clone(&lines.path), 0);
    Table { place, ..table(document.into_inner(), &lines, 0) }
}

/// Parses one TOML value: a default, as the declaration of its setting has it.
pub(super) fn literal(text: &str) -> Option<Raw> {
    let lines = Lines { path: Path::new("").into(), text };
    let node = node(DeValue::parse(text).ok()?, &lines);
    Some(node.value)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Lines<'a> {
    path: Arc<Path>,
    text: &'a str,
}

impl Lines<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Place::File(Arc::clone(&self.path), line)
    }
}

fn table(entries: DeTable<'_>, lines: &Lines<'_>, offset: usize) -> Table {
    let entries = entries
        .into_iter()
        .map(|(key, value)| {
            // A setting stands where its name stands; the span of a table says little.
            let place = lines.place(key.span().start);
            (key.into_inner().into_owned(), Node { place, ..node(value, lines) })
        })
        .collect();
    Table { place: lines.place(offset), entries }
}

fn node(value: Spanned<DeValue<'_>>, lines: &Lines<'_>) -> Node {
    let offset = value.span().start;
    let value = match value.into_inner() {
        DeValue::String(text) => Raw::String(text.into_owned()),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            i64::from_str_radix(&digits, number.radix()).map_or(Raw::Other, Raw::Integer)
        }
        DeValue::Boolean(value) => Raw::Boolean(value),
        DeValue::Array(values) => Raw::Array(values.into_iter().map(|value| node(value, lines)).collect()),
        DeValue::Table(entries) => Raw::Table(table(entries, lines, offset)),
        DeValue::Float(_) | DeValue::Datetime(_) => Raw::Other,
    };
    Node { place: lines.place(offset), value }
}

/// Lays the environment over `root`. `known` says which settings there are, as `section.field`.
pub(super) fn overlay(root: &mut Table, env: &[(String, String)], known: &[String], problems: &mut Problems) {
    for (name, value) in env {
        let Some(path) = setting_of(name) else { continue };
        let place = Place::Env(name.clone());
        if !known.contains(&path) {
            let remedy = "unset it, or see `keyclasp config reference` for what there is";
            problems.push(Problem::new(place, "", "is not the name of a setting", remedy));
            continue;
        }
        set(root, &path, Node { place, value: Raw::Env(value.clone()) });
    }
}

/// Which setting a variable is for. None: it is none of ours, like the `KEYCLASP_PORT` that
/// Kubernetes sets for a service called keyclasp.
fn setting_of(name: &str) -> Option<String> {
    let rest = name.strip_prefix("KEYCLASP_")?;
    if rest == "DATA_DIR" || rest.contains("__") { Some(rest.replace("__", ".").to_ascii_lowercase()) } else { None }
}

fn set(root: &mut Table, path: &str, node: Node) {
    let mut table = root;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            table.entries.insert(name.to_owned(), node);
            return;
        }
        let below = Node { place: node.place.clone(), value: Raw::Table(Table::empty(node.place.clone())) };
        match &mut table.entries.entry(name.to_owned()).or_insert(below).value {
            Raw::Table(next) => table = next,
            // The file has something else there, which is reported when the section is read.
            _ => return,
        }
    }
}

/// Reads a file as text, or says why not.
pub(super) fn read(path: &Path, setting: &str, place: Place, problems: &mut Problems) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) => {
            // Where the place is the file itself, it is named already.
            let problem = match &place {
                Place::File(file, 0) if **file == *path => format!("cannot be read: {error}"),
                _ => format!("cannot be read from {}: {error}", path.display()),
            };
            problems.push(Problem::new(place, setting, problem, "check the path and its permissions"));
            None
        }
    }
}

/// The directory of a file.
pub(super) fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
