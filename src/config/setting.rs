//! What a setting is: a type with a form, a declaration with a default and a text. Parsing, the
//! defaults and `keyclasp config reference` all come from the one declaration that [`section!`]
//! takes, so that none of them can be stale.

use std::path::Path;

use super::problem::{Problem, Problems};
use super::source::{Place, Raw, Table, literal};

/// A type that a setting can have.
pub(super) trait Setting: Sized {
    /// What its values are, with an article: `a duration`.
    fn form() -> String;

    /// A value, as TOML.
    fn example() -> String;

    /// Understands a value. Relative paths are relative to `base`.
    fn parse(value: &Raw, base: &Path) -> Result<Self, Fault>;

    /// The value of a setting that has no default and is not set. None: it is required.
    fn absent() -> Option<Self> {
        None
    }
}

/// Why a value was refused.
pub(super) struct Fault {
    pub(super) problem: String,
    pub(super) remedy: String,
}

impl Fault {
    /// The value is not what the type wants.
    pub(super) fn form<T: Setting>() -> Self {
        Self { problem: format!("is not {}", T::form()), remedy: format!("write it as {}", T::example()) }
    }

    /// The same, with a remedy that says more.
    pub(super) fn with<T: Setting>(remedy: impl ToString) -> Self {
        Self { remedy: remedy.to_string(), ..Self::form::<T>() }
    }
}

/// The declaration of a setting.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub(super) name: &'static str,
    pub(super) form: String,
    pub(super) example: String,
    /// As TOML; none: unset.
    pub(super) default: Option<&'static str>,
    pub(super) doc: String,
}

/// A section: what [`section!`] makes.
pub(super) trait Section: Sized {
    /// Its name, such as `server`; empty for what stands above all sections.
    const PATH: &'static str;

    /// What it is about.
    fn doc() -> String;

    /// Its settings, in the order of their declaration.
    fn declared() -> Vec<Declared>;

    /// Reads it. None: something was wrong, and is among the reader's problems.
    fn read(reader: &mut Reader<'_>) -> Option<Self>;
}

/// Reads the settings of one section.
pub(super) struct Reader<'a> {
    /// The tables to look in, the first that has a setting counts.
    layers: &'a [&'a Table],
    path: &'a str,
    base: &'a Path,
    problems: &'a mut Problems,
}

/// Reads `S` from `layers`. `nested` names the tables within it that are read apart.
pub(super) fn read<S: Section>(
    layers: &[&Table],
    path: &str,
    nested: &[&str],
    base: &Path,
    problems: &mut Problems,
) -> Option<S> {
    let declared = S::declared();
    for layer in layers {
        for (name, node) in &layer.entries {
            if !declared.iter().any(|setting| setting.name == name) && !nested.contains(&name.as_str()) {
                let names: Vec<_> = declared.iter().map(|setting| setting.name).chain(nested.iter().copied()).collect();
                let remedy = format!("remove it, or use one of {}", names.join(", "));
                problems.push(Problem::new(node.place.clone(), join(path, name), "is not a setting", remedy));
            }
        }
    }
    S::read(&mut Reader { layers, path, base, problems })
}

impl Reader<'_> {
    /// Reads one setting.
    pub(super) fn get<T: Setting>(&mut self, name: &str, default: Option<&str>) -> Option<T> {
        let setting = join(self.path, name);
        let found = self.layers.iter().find_map(|layer| layer.entries.get(name));
        let (place, value) = match (found, default) {
            (Some(node), _) => (node.place.clone(), node.value.clone()),
            (None, Some(default)) => (Place::Nowhere, literal(default)?),
            (None, None) => {
                let absent = T::absent();
                if absent.is_none() {
                    let place = place(self.layers, name);
                    let remedy = format!("set it, such as {name} = {}", T::example());
                    self.problems.push(Problem::new(place, setting, "is missing", remedy));
                }
                return absent;
            }
        };
        let base = if matches!(place, Place::Env(_)) { Path::new("") } else { self.base };
        match T::parse(&value, base) {
            Ok(value) => Some(value),
            Err(Fault { problem, remedy }) => {
                self.problems.push(Problem::new(place, setting, problem, remedy));
                None
            }
        }
    }

    /// Refuses a value that was understood, for what it means.
    pub(super) fn refuse(&mut self, name: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        let place = place(self.layers, name);
        self.problems.push(Problem::new(place, join(self.path, name), problem, remedy));
    }
}

/// Where a setting is set, or else its section.
pub(super) fn place(layers: &[&Table], name: &str) -> Place {
    let set = layers.iter().find_map(|layer| layer.entries.get(name)).map(|node| &node.place);
    set.or_else(|| layers.first().map(|layer| &layer.place)).cloned().unwrap_or(Place::Nowhere)
}

/// `section.name`.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Declares a section: its settings with their documentation, type and default (as TOML; without
/// one: unset). Settings are checked against each other in `check`.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        [$path:literal] $vis:vis struct $name:ident {
            $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty $(= $default:tt)?,)+
        }
        check $check:expr
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone)]
        $vis struct $name {
            $($(#[doc = $field_doc])+ $vis $field: $type,)+
        }

        impl $crate::config::setting::Section for $name {
            const PATH: &'static str = $path;

            fn doc() -> String {
                [$($doc.trim()),+].join(" ")
            }

            fn declared() -> Vec<$crate::config::setting::Declared> {
                vec![$($crate::config::setting::Declared {
                    name: stringify!($field),
                    form: <$type as $crate::config::setting::Setting>::form(),
                    example: <$type as $crate::config::setting::Setting>::example(),
                    default: $crate::config::setting::section!(@default $($default)?),
                    doc: [$($field_doc.trim()),+].join(" "),
                }),+]
            }

            fn read(reader: &mut $crate::config::setting::Reader<'_>) -> Option<Self> {
                $(let $field = reader.get::<$type>(
                    stringify!($field),
                    $crate::config::setting::section!(@default $($default)?),
                );)+
                let section = Self { $($field: $field?),+ };
                let check: fn(&Self, &mut $crate::config::setting::Reader<'_>) = $check;
                check(&section, reader);
                Some(section)
            }
        }
    };
    (@default) => { None };
    (@default $default:tt) => { Some(stringify!($default)) };
}
pub(super) use section;
