//! The configuration: a TOML file and the environment, parsed into values that are valid.
//!
//! One file per section; each setting is declared once (`setting.rs`), and its parsing, default
//! and line in `keyclasp config reference` come from there. Reading never contacts anything: the
//! store, the network and the keyring file are other modules' business.

mod cache;
mod callers;
mod fence;
mod finding;
mod hash;
mod keyring;
mod log;
mod oauth2;
mod peppers;
mod problem;
mod proxy;
mod realms;
mod reference;
#[cfg(test)]
pub(crate) mod scratch;
mod server;
mod setting;
mod setup;
mod source;
mod store;
mod types;

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

pub use callers::Caller;
pub use fence::Lease;
pub use keyring::{KeyringFile, KeyringFileError, LoadedKeyring};
pub use peppers::{PepperEntry, Peppers};
pub use problem::{Problem, Problems};
pub use proxy::Proxies;
pub use reference::reference;
pub use server::Server;
pub use setup::{Created, SetupError, complete, init};
pub use source::Place;
pub use store::{Keys, Store, StoreUrl};
pub use types::{Number, parse_owner};

use crate::key::Argon2Profile;
use crate::rpc::oauth2::Issuer;
use crate::service::Policies;
use crate::service::status::Finding;
use crate::telemetry::LogConfig;
use setting::{Section, read, section};

/// Name of the configuration file that `init` writes.
pub const CONFIG_FILE: &str = "keyclasp.toml";
/// Name of the admin token's file that `init` and the first `serve` write.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";
/// Name of the keyring file that `init` and the first `serve` write.
pub const KEYRING_FILE: &str = "keyring.toml";

section! {
    /// Stands before the first section.
    [""] struct Top {
        /// Where the service keeps its files. Unset: the directory of the configuration file; without one, the
        /// user's data directory (`$XDG_DATA_HOME/keyclasp` or `~/.local/share/keyclasp`).
        data_dir: Option<PathBuf>,
    }
    check |_, _| {}
}

/// What a configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: Vec<(String, String)>,
}

impl Sources {
    /// `file`, and the environment of this process.
    #[must_use]
    pub fn from_process(file: Option<PathBuf>) -> Self {
        // A value that is no text is no value of a setting either, and is refused where it is parsed.
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        Self { file, env: std::env::vars_os().filter_map(text).collect() }
    }

    /// A variable of the environment, if it is not empty.
    #[must_use]
    pub fn var(&self, name: &str) -> Option<&str> {
        let found = self.env.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The user's data directory: `$KEYCLASP_DATA_DIR`, `$XDG_DATA_HOME/keyclasp` or
    /// `~/.local/share/keyclasp`. None: the environment names none of them.
    #[must_use]
    pub fn user_dir(&self) -> Option<PathBuf> {
        let dir = self.var("KEYCLASP_DATA_DIR").map(PathBuf::from);
        let xdg = || self.var("XDG_DATA_HOME").map(|base| Path::new(base).join("keyclasp"));
        let home = || self.var("HOME").map(|home| Path::new(home).join(".local/share/keyclasp"));
        dir.or_else(xdg).or_else(home)
    }
}

/// The whole configuration: valid values only.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that it was read from.
    pub file: Option<PathBuf>,
    /// Where the service keeps its files.
    pub data_dir: PathBuf,
    /// Where it listens, and its limits.
    pub server: Server,
    /// Where records live.
    pub store: Store,
    /// How long records are kept.
    pub keys: Keys,
    /// Costs of Argon2id for new keys.
    pub hash: Argon2Profile,
    /// How much memory records may take, in bytes.
    pub cache_bytes: u64,
    /// The term of leases, where it is set.
    pub lease: Option<Lease>,
    /// The file of peppers.
    pub keyring: KeyringFile,
    /// The log.
    pub log: LogConfig,
    /// What proxies may ask.
    pub proxies: Proxies,
    /// The URL by which OAuth clients know the service.
    pub issuer: Option<Issuer>,
    /// Policies.
    pub realms: Policies,
    /// Who may call.
    pub callers: Vec<Caller>,
}

impl Config {
    /// Reads everything.
    ///
    /// # Errors
    /// All that is wrong, at once.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let config = parse(sources, &mut problems);
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(problems),
        }
    }

    /// Whether the store belongs to this process alone.
    #[must_use]
    pub const fn is_embedded(&self) -> bool {
        matches!(self.store.target, StoreUrl::Embedded(_))
    }

    /// What an operator should know about a configuration that is valid.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        finding::of(self)
    }
}

fn parse(sources: &Sources, problems: &mut Problems) -> Option<Config> {
    let mut root = match &sources.file {
        None => source::Table::empty(Place::Nowhere),
        Some(path) => {
            let text = source::read(path, "", Place::File(path.clone().into(), 0), problems)?;
            source::parse(&text, path, problems)
        }
    };
    source::overlay(&mut root, &sources.env, &reference::names(), problems);

    // Relative paths and the files that are not named are beside the configuration file; without
    // one, in the data directory.
    let user_dir = sources.user_dir();
    let beside_file = sources.file.as_deref().map(source::directory);
    let base = beside_file.clone().or_else(|| user_dir.clone()).unwrap_or_else(|| PathBuf::from("."));

    let sections = ["server", "store", "keys", "hash", "cache", "fence", "keyring", "log", "oauth2"];
    let [server, store, keys, hash, cache, fence, keyring, log, oauth2] =
        sections.map(|name| root.take_table(name, name, problems));
    let [proxy, envoy, forward_auth] =
        ["proxy", "envoy", "forward_auth"].map(|name| root.take_table(name, name, problems));
    let realms = root.take_table("realms", "realms", problems);
    let callers = root.take_tables("callers", "callers", problems);

    let all_sections = [
        "server",
        "store",
        "keys",
        "hash",
        "cache",
        "fence",
        "keyring",
        "log",
        "proxy",
        "envoy",
        "forward_auth",
        "oauth2",
        "realms",
        "callers",
    ];
    let top = read::<Top>(&[&root], "", &all_sections, &base, problems);
    let server = read_section::<Server>(&server, &base, problems);
    let store_section = read_section::<store::StoreSection>(&store, &base, problems);
    let keys = read_section::<Keys>(&keys, &base, problems);
    let hash = read_section::<hash::Hash>(&hash, &base, problems);
    let cache = read_section::<cache::Cache>(&cache, &base, problems);
    let fence = read_section::<fence::FenceSection>(&fence, &base, problems);
    let keyring = read_section::<keyring::KeyringSection>(&keyring, &base, problems);
    let log = read_section::<log::Log>(&log, &base, problems);
    let proxies = proxy::proxies(&proxy, envoy, &forward_auth, &base, problems);
    let oauth2 = read_section::<oauth2::OAuth2>(&oauth2, &base, problems);
    let realms = realms::realms(realms, &base, problems);
    let mut callers = callers::callers(callers, &base, problems);

    let data_dir = top?.data_dir.or(beside_file).or(user_dir);
    if data_dir.is_none() {
        let remedy = "set KEYCLASP_DATA_DIR, or give a configuration file";
        problems.push(Problem::new(Place::Nowhere, "data_dir", "is not known: HOME is not set", remedy));
    }
    let data_dir = data_dir?;
    let admin_token = data_dir.join(ADMIN_TOKEN_FILE);
    if sources.file.is_none() && admin_token.exists() {
        callers.extend(callers::admin(&admin_token, problems));
    }
    let password_place = setting::place(&[&store], "password_file");
    Some(Config {
        file: sources.file.clone(),
        store: whole_store(store_section?, &data_dir, password_place, problems),
        data_dir,
        server: server?,
        keys: keys?,
        hash: hash?.profile(),
        cache_bytes: cache?.bytes(),
        lease: fence?.lease,
        keyring: KeyringFile::new(keyring?.file),
        log: log?.config(),
        proxies: proxies?,
        issuer: oauth2?.issuer,
        realms: realms?,
        callers,
    })
}

fn read_section<S: Section>(table: &source::Table, base: &Path, problems: &mut Problems) -> Option<S> {
    read::<S>(&[table], S::PATH, &[], base, problems)
}

/// With the password read and the default filled in.
fn whole_store(section: store::StoreSection, data_dir: &Path, place: Place, problems: &mut Problems) -> Store {
    let mut target = section.url.unwrap_or_else(|| StoreUrl::Embedded(data_dir.to_owned()));
    if let (StoreUrl::Redis(url), Some(path)) = (&target, &section.password_file)
        && !url.has_password()
        && let Some(text) = source::read(path, "store.password_file", place, problems).map(Zeroizing::new)
    {
        target = StoreUrl::Redis(url.clone().with_password(text.strip_suffix('\n').unwrap_or(&text)));
    }
    Store {
        target,
        shards: section.shards,
        replicas: section.replicas.get(),
        wait: section.wait,
        audit_max_events: section.audit_max_events.get().into(),
        log_max_entries: section.log_max_entries.get().into(),
        require_durable: section.require_durable,
    }
}

#[cfg(test)]
mod tests;
