//! `keyclasp config reference`: every setting, from the declarations that the parser uses.

use std::fmt::Write as _;

use super::setting::{Declared, Section};
use super::{Keys, Server, Top, cache, callers, fence, hash, keyring, log, oauth2, proxy, realms, store};

/// Widest line of a comment.
const WIDTH: usize = 100;

struct Documented {
    path: &'static str,
    doc: String,
    settings: Vec<Declared>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Stands above all tables.
    Top,
    /// A table; its settings can come from the environment.
    Table,
    /// One of many tables, of the file alone.
    Array,
    /// A table within one of those.
    Within,
}

fn documented<S: Section>(kind: Kind) -> Documented {
    Documented { path: S::PATH, doc: S::doc(), settings: S::declared(), kind }
}

fn sections() -> Vec<Documented> {
    vec![
        documented::<Top>(Kind::Top),
        documented::<Server>(Kind::Table),
        documented::<store::StoreSection>(Kind::Table),
        documented::<Keys>(Kind::Table),
        documented::<hash::Hash>(Kind::Table),
        documented::<cache::Cache>(Kind::Table),
        documented::<fence::FenceSection>(Kind::Table),
        documented::<keyring::KeyringSection>(Kind::Table),
        documented::<log::Log>(Kind::Table),
        documented::<proxy::ProxySection>(Kind::Table),
        documented::<proxy::EnvoySection>(Kind::Table),
        documented::<proxy::ForwardAuthSection>(Kind::Table),
        documented::<oauth2::OAuth2>(Kind::Table),
        documented::<realms::RealmSection>(Kind::Table),
        documented::<proxy::HostSection>(Kind::Array),
        documented::<callers::CallerSection>(Kind::Array),
        documented::<callers::GrantSection>(Kind::Array),
        documented::<callers::CapsSection>(Kind::Within),
    ]
}

/// The settings that the environment can set, as `section.field`.
pub(super) fn names() -> Vec<String> {
    let from_env = sections().into_iter().filter(|section| matches!(section.kind, Kind::Top | Kind::Table));
    from_env
        .flat_map(|section| section.settings.into_iter().map(move |one| super::setting::join(section.path, one.name)))
        .collect()
}

/// Every setting with its documentation and default, as Markdown around TOML.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         Printed by `keyclasp config reference`. One TOML file (`keyclasp serve --config FILE`), and the environment,\n\
         which wins: `KEYCLASP_SECTION__FIELD`, as named below. What is not set has the default that is shown; what has\n\
         none is commented out. Relative paths are relative to the file. A setting or `KEYCLASP_…__…` variable that is\n\
         not listed here is refused. `keyclasp config check` says everything that is wrong, with its place and remedy.\n",
    );
    for section in sections() {
        let header = match section.kind {
            Kind::Top => String::new(),
            Kind::Table | Kind::Within => format!("[{}]", section.path),
            Kind::Array => format!("[[{}]]", section.path),
        };
        let title = if header.is_empty() { "Above all sections".to_owned() } else { format!("`{header}`") };
        let _ = write!(page, "\n## {title}\n\n{}\n\n```toml\n", wrap("", &section.doc));
        if !header.is_empty() {
            let _ = writeln!(page, "{header}");
        }
        for (index, setting) in section.settings.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            page.push_str(separator);
            page.push_str(&entry(&section, setting));
        }
        page.push_str("```\n");
    }
    page
}

fn entry(section: &Documented, setting: &Declared) -> String {
    let mut text = wrap("# ", &setting.doc);
    let mut form = capitalised(&setting.form);
    if matches!(section.kind, Kind::Top | Kind::Table) {
        let path = super::setting::join(section.path, setting.name);
        let _ = write!(form, ". KEYCLASP_{}", path.replace('.', "__").to_uppercase());
    }
    let _ = writeln!(text, "\n{}", wrap("# ", &form));
    let _ = match setting.default {
        Some(default) => writeln!(text, "{} = {default}", setting.name),
        None => writeln!(text, "# {} = {}", setting.name, setting.example),
    };
    text
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().collect::<String>() + characters.as_str()).unwrap_or_default()
}

/// Lines of words, each beginning with `prefix`.
fn wrap(prefix: &str, text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{prefix}{word}")),
        }
    }
    lines.join("\n")
}
