//! The files that a new service needs: its configuration, its keyring and its admin token. Made
//! here and nowhere else; an existing file is never touched.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use super::keyring;
use super::{ADMIN_TOKEN_FILE, CONFIG_FILE, Config, KEYRING_FILE, KeyringFileError, Peppers, StoreUrl};
use crate::clock::Timestamp;
use crate::key::{Invalid, PepperId};
use crate::random::{self, Entropy, EntropyError};
use crate::store::embedded::EmbeddedConfig;

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Created {
    /// The files, in the order in which they were written.
    pub files: Vec<PathBuf>,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file is there already.
    #[error("{} already exists; nothing was written: choose another directory, or move the file away", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// The store's URL is not one.
    #[error("the store's URL: {0}")]
    Store(Invalid),
    /// A shared store has no keyring.
    #[error(
        "there is no keyring at {}: a shared store needs the one that its other replicas have (keyring.file); for a new store make one with `keyclasp init`",
        path.display()
    )]
    NoKeyring {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// An embedded store that was used before has no keyring.
    #[error(
        "there is no keyring at {}, but a store that was used with one: restore the file from a backup (keyring.file); without it none of the store's keys verifies",
        path.display()
    )]
    KeyringLost {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file could not be written.
    #[error("{} could not be written: {error}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The keyring.
    #[error(transparent)]
    Keyring(#[from] KeyringFileError),
}

/// Makes `directory` (or takes an existing one) with a configuration, a keyring and an admin token.
/// Contacts nothing. Either all three files are new, or none is written.
///
/// # Errors
/// When one of the files exists, `store` is no URL, or something cannot be written.
pub fn init(
    directory: &Path,
    store: Option<&str>,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<Created, SetupError> {
    if let Some(url) = store {
        // A relative directory would be relative to the configuration file; nobody means that here.
        if url.starts_with("file:") && !url.starts_with("file:///") {
            return Err(SetupError::Store(Invalid::new("write it as file:///DIRECTORY, with the whole path")));
        }
        StoreUrl::parse(url, directory).map_err(SetupError::Store)?;
    }
    let [config, keyring, token] = [CONFIG_FILE, KEYRING_FILE, ADMIN_TOKEN_FILE].map(|name| directory.join(name));
    for path in [&config, &keyring, &token] {
        // A dangling link counts too.
        if path.symlink_metadata().is_ok() {
            return Err(SetupError::Exists { path: path.clone() });
        }
    }
    let texts = [(keyring, new_keyring(now, entropy)?), (token, new_token(entropy)?), (config, new_config(store))];
    make_directory(directory)?;
    let mut created = Created::default();
    for (path, text) in texts {
        if let Err(error) = keyring::create(&path, &text) {
            for file in &created.files {
                let _ = std::fs::remove_file(file);
            }
            return Err(match error.kind() {
                io::ErrorKind::AlreadyExists => SetupError::Exists { path },
                _ => SetupError::Write { path, error },
            });
        }
        created.files.push(path);
    }
    Ok(created)
}

/// Makes what `config` lacks to run: a keyring, if the store is this process's own; and, without a
/// configuration file, an admin token in the data directory.
///
/// # Errors
/// When a shared store, or one that was used before, has no keyring; or something cannot be written.
pub fn complete(config: &Config, now: Timestamp, entropy: &dyn Entropy) -> Result<Created, SetupError> {
    let mut missing = Vec::new();
    let keyring = config.keyring.path();
    if !keyring.exists() {
        let path = keyring.to_owned();
        match &config.store.target {
            StoreUrl::Redis(_) => return Err(SetupError::NoKeyring { path }),
            StoreUrl::Embedded(dir) if EmbeddedConfig::new(dir).is_made() => {
                return Err(SetupError::KeyringLost { path });
            }
            StoreUrl::Embedded(_) => {}
        }
        missing.push((keyring.to_owned(), new_keyring(now, entropy)?));
    }
    let token = config.data_dir.join(ADMIN_TOKEN_FILE);
    if config.file.is_none() && config.is_embedded() && !token.exists() {
        missing.push((token, new_token(entropy)?));
    }
    let mut created = Created::default();
    for (path, text) in missing {
        make_directory(&super::source::directory(&path))?;
        keyring::create(&path, &text).map_err(|error| SetupError::Write { path: path.clone(), error })?;
        created.files.push(path);
    }
    Ok(created)
}

/// A directory that only its owner may enter; one that exists stays as it is.
fn make_directory(path: &Path) -> Result<(), SetupError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| SetupError::Write { path: path.to_owned(), error })
}

fn new_keyring(now: Timestamp, entropy: &dyn Entropy) -> Result<Zeroizing<String>, SetupError> {
    let id = PepperId::parse(&date(now)).map_err(|error| KeyringFileError::Refused(error.to_string()))?;
    Ok(Peppers::generate(id, now, entropy)?.render())
}

/// The day of `now`, which is what a pepper is called that nobody names.
pub(super) fn date(now: Timestamp) -> String {
    now.to_string().chars().take_while(|c| *c != 'T').collect()
}

fn new_token(entropy: &dyn Entropy) -> Result<Zeroizing<String>, SetupError> {
    let bytes = Zeroizing::new(random::bytes::<32>(entropy)?);
    Ok(Zeroizing::new(format!("kc-admin-{}\n", *Zeroizing::new(BASE64URL_NOPAD.encode(&*bytes)))))
}

fn new_config(store: Option<&str>) -> Zeroizing<String> {
    let store = match store {
        Some(url) => format!("url = {}", toml::Value::String(url.to_owned())),
        None => "# One embedded file in this directory, for one process. For several replicas:\n\
                 # url = \"redis://127.0.0.1:6379\""
            .to_owned(),
    };
    Zeroizing::new(format!(
        r#"# The configuration of keyclasp. `keyclasp config reference` prints every setting with its default,
# `keyclasp config check --config FILE` says what is wrong with this file. Paths are relative to it.

[server]
# gRPC and HTTP. Other machines reach it only over a proxy or mesh that encrypts (server.insecure).
# listen = "127.0.0.1:7413"
# Metrics and health.
# ops_listen = "127.0.0.1:7414"

[store]
{store}

[keyring]
# Secrets of the service. Back this file up, apart from the store.
file = "{KEYRING_FILE}"

# What keys may be: here for every realm, in [realms.NAME] for one.
[realms.default]
# max_ttl = "365d"
# allow_no_expiry = false

# Who may call. Give each program its own token and the one role that it needs.
[[callers]]
name = "admin"
token_file = "{ADMIN_TOKEN_FILE}"
roles = ["admin"]
realms = ["*"]

# [[callers]]
# name = "gateway"
# token_sha256 = "…"  # printf %s "$TOKEN" | sha256sum
# roles = ["validator"]
# realms = ["production"]
"#
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Sources;
    use crate::config::scratch::Scratch;
    use crate::random::SeededEntropy;
    use crate::service::access::{Realms, Role};

    fn run(directory: &Path, store: Option<&str>) -> Result<Created, SetupError> {
        init(directory, store, Timestamp::from_millis(1_795_000_000_000), &SeededEntropy::new(1))
    }

    fn load(file: Option<PathBuf>, data_dir: &Path) -> Config {
        let env = vec![("KEYCLASP_DATA_DIR".to_owned(), data_dir.display().to_string())];
        Config::load(&Sources { file, env: if data_dir == Path::new("") { Vec::new() } else { env } }).unwrap()
    }

    #[test]
    fn init_makes_files_that_run_and_that_only_the_owner_may_read() {
        let scratch = Scratch::new();
        for (name, store) in [("a", None), ("b", Some("redis://u:p@h:1/2")), ("c", Some("file:///some/\"where"))] {
            let directory = scratch.path().join(name).join("below");
            let created = run(&directory, store).unwrap();
            assert_eq!(created.files.len(), 3);
            for file in &created.files {
                assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
            }
            let config = load(Some(directory.join(CONFIG_FILE)), Path::new(""));
            assert_eq!(config.data_dir, directory);
            assert_eq!(config.keyring.load().unwrap().keyring.peppers().count(), 1);
            let [admin] = config.callers.as_slice() else { panic!("not one caller") };
            assert_eq!(
                admin.principal.grants,
                [crate::service::access::Grant { role: Role::Admin, realms: Realms::All }]
            );
            assert_eq!(config.findings(), []);
            match store {
                None => assert_eq!(config.store.target.to_string(), format!("file://{}", directory.display())),
                Some(url) => {
                    let parsed = StoreUrl::parse(url, Path::new("")).unwrap();
                    assert_eq!(config.store.target.to_string(), parsed.to_string());
                }
            }
        }
    }

    #[test]
    fn init_takes_a_directory_with_other_files_and_refuses_to_overwrite_its_own() {
        let scratch = Scratch::new();
        scratch.write("other", "mine");
        for name in [CONFIG_FILE, KEYRING_FILE, ADMIN_TOKEN_FILE] {
            let existing = scratch.write(name, "mine");
            let error = run(scratch.path(), None).unwrap_err();
            assert!(matches!(&error, SetupError::Exists { path } if *path == existing), "{error}");
            assert_eq!(std::fs::read_to_string(&existing).unwrap(), "mine");
            std::fs::remove_file(&existing).unwrap();
            assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1, "{name}: something was written");
        }
        run(scratch.path(), None).unwrap();
        assert_eq!(std::fs::read_to_string(scratch.path().join("other")).unwrap(), "mine");
    }

    #[test]
    fn init_refuses_a_store_that_it_does_not_know() {
        let scratch = Scratch::new();
        for url in ["mysql://h", "rediss://h", "file:data"] {
            assert!(matches!(run(&scratch.path().join("x"), Some(url)), Err(SetupError::Store(_))), "{url}");
        }
        assert!(!scratch.path().join("x").exists());
    }

    #[test]
    fn a_first_start_makes_a_keyring_and_a_token_and_a_second_one_nothing() {
        let scratch = Scratch::new();
        let directory = scratch.path().join("data");
        let (now, entropy) = (Timestamp::from_millis(0), SeededEntropy::new(1));
        let config = load(None, &directory);
        assert!(config.callers.is_empty());
        assert_eq!(
            complete(&config, now, &entropy).unwrap().files,
            [KEYRING_FILE, ADMIN_TOKEN_FILE].map(|name| directory.join(name))
        );
        let config = load(None, &directory);
        assert_eq!(config.callers.len(), 1);
        assert_eq!(complete(&config, now, &entropy).unwrap(), Created::default());
        assert_eq!(config.findings(), []);
    }

    #[test]
    fn a_shared_store_is_given_neither_a_keyring_nor_a_token() {
        let scratch = Scratch::new();
        let file = scratch.write(CONFIG_FILE, "[store]\nurl = \"redis://h\"\n");
        let config = load(Some(file), Path::new(""));
        let error = complete(&config, Timestamp::default(), &SeededEntropy::new(1)).unwrap_err();
        assert!(matches!(error, SetupError::NoKeyring { .. }), "{error}");
        scratch.write(KEYRING_FILE, "");
        assert_eq!(complete(&config, Timestamp::default(), &SeededEntropy::new(1)).unwrap(), Created::default());
    }
}
