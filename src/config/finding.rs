//! What an operator should know about a configuration that is valid.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Config, StoreUrl};
use crate::service::status::{Finding, Severity};

/// Everything about `config`.
pub(super) fn of(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.callers.is_empty() {
        findings.push(Finding {
            severity: Severity::Warning,
            code: "NO_CALLERS",
            meaning: "no caller is configured: nobody can validate or issue keys".to_owned(),
            remedy: "add [[callers]] to the configuration file; `keyclasp init` writes one".to_owned(),
        });
    }
    if !config.server.listen.ip().is_loopback() {
        findings.push(Finding {
            severity: Severity::Warning,
            code: "CLEAR_TEXT",
            meaning: format!(
                "keys and tokens reach {} in clear text; whoever sees the network sees them",
                config.server.listen
            ),
            remedy: "let only a proxy or mesh that encrypts reach it".to_owned(),
        });
    }
    if config.proxies.envoy.dry_run {
        findings.push(Finding {
            severity: Severity::Warning,
            code: "DRY_RUN_FOR_ALL",
            meaning: "proxies are told to let every request pass, whatever its key".to_owned(),
            remedy: "set proxy.dry_run = false when its decisions are those that you want".to_owned(),
        });
    }
    let token_files = config.callers.iter().filter_map(|caller| caller.token_file.as_deref());
    for (path, what) in
        [(config.keyring.path(), "the peppers")].into_iter().chain(token_files.map(|path| (path, "a token")))
    {
        findings.extend(readable_by_others(path, what));
    }
    if let (StoreUrl::Redis(address), Some(file)) = (&config.store.target, &config.file)
        && address.has_password()
    {
        findings.extend(readable_by_others(file, "perhaps the store's password"));
    }
    findings
}

/// Only a warning: files that Kubernetes mounts from a Secret are readable by all in the container.
fn readable_by_others(path: &Path, what: &str) -> Option<Finding> {
    let mode = path.metadata().ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| Finding {
        severity: Severity::Warning,
        code: "SECRET_FILE_MODE",
        meaning: format!("{} holds {what}, and others than its owner may read it (mode {mode:03o})", path.display()),
        remedy: format!("chmod 600 {}; or mount the secret with defaultMode: 0400", path.display()),
    })
}
