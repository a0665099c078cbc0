//! Realm and scopes by host, for a mesh whose routes cannot name them (Istio sends no context extensions).

use std::collections::HashMap;

use crate::key::{Invalid, Realm, Scope};

/// What the requests to a host need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The realm of their keys.
    pub realm: Realm,
    /// Scopes that a key must cover, all of them.
    pub scopes: Vec<Scope>,
}

/// Hosts by name. A name that begins with `*.` is for every host below; the longest that fits counts.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    exact: HashMap<Box<[u8]>, Host>,
    /// Each with its leading dot, longest first.
    below: Vec<(Box<[u8]>, Host)>,
}

impl Hosts {
    /// Whether `name` is a host's.
    ///
    /// # Errors
    /// When it is none: it has a port, a path or white space, or is not in lower case.
    pub fn check(name: &str) -> Result<(), Invalid> {
        let (below, bare) = split(name);
        let labels = if below { bare.strip_prefix('.').unwrap_or_default() } else { bare };
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_');
        let is_address = labels.starts_with('[') && labels.ends_with(']') && !below;
        if labels.is_empty() || labels.starts_with('.') || !(is_address || labels.bytes().all(fits)) {
            let remedy = "write a host in lower case without a port, such as api.example.com or *.example.com";
            return Err(Invalid::new(remedy));
        }
        Ok(())
    }

    /// Adds a host.
    ///
    /// # Errors
    /// When the name is none ([`Self::check`]), or is there already.
    pub fn add(&mut self, name: &str, host: Host) -> Result<(), Invalid> {
        Self::check(name)?;
        let (below, bare) = split(name);
        let key: Box<[u8]> = bare.trim_end_matches('.').as_bytes().into();
        let known =
            if below { self.below.iter().any(|(suffix, _)| *suffix == key) } else { self.exact.contains_key(&key) };
        if known {
            return Err(Invalid::new("is there twice"));
        }
        if below {
            self.below.push((key, host));
            self.below.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        } else {
            self.exact.insert(key, host);
        }
        Ok(())
    }

    /// That of an authority: a host, perhaps with a port, in any case.
    pub(super) fn of(&self, authority: &[u8]) -> Option<&Host> {
        if self.exact.is_empty() && self.below.is_empty() {
            return None;
        }
        let host = without_port(authority).to_ascii_lowercase();
        let host = host.strip_suffix(b".").unwrap_or(&host);
        self.exact.get(host).or_else(|| {
            let fits = |suffix: &[u8]| host.len() > suffix.len() && host.ends_with(suffix);
            self.below.iter().find(|(suffix, _)| fits(suffix)).map(|(_, host)| host)
        })
    }
}

/// Whether a name is for the hosts below it, and the name without the star.
fn split(name: &str) -> (bool, &str) {
    name.strip_prefix('*').map_or((false, name), |suffix| (true, suffix))
}

/// `host:port` and `[v6]:port` without the port.
fn without_port(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|byte| *byte == b':') {
        Some(at) if authority.get(at + 1..).is_some_and(|port| port.iter().all(u8::is_ascii_digit)) => {
            authority.get(..at).unwrap_or_default()
        }
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(realm: &str) -> Host {
        Host { realm: Realm::parse(realm).unwrap(), scopes: Vec::new() }
    }

    #[test]
    fn the_closest_name_counts() {
        let mut hosts = Hosts::default();
        for name in ["api.example.com", "*.example.com", "*.eu.example.com", "[::1]", "localhost"] {
            hosts.add(name, host(name.trim_start_matches('*'))).unwrap();
        }
        for (authority, realm) in [
            ("api.example.com", Some("api.example.com")),
            ("API.Example.com:8443", Some("api.example.com")),
            ("api.example.com.", Some("api.example.com")),
            ("other.example.com", Some(".example.com")),
            ("a.eu.example.com:80", Some(".eu.example.com")),
            ("eu.example.com", Some(".example.com")),
            ("example.com", None),
            (".example.com", None),
            ("badexample.com", None),
            ("[::1]:80", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("localhost:x", None),
            ("", None),
        ] {
            assert_eq!(hosts.of(authority.as_bytes()).map(|host| host.realm.as_str()), realm, "{authority}");
        }
        assert!(Hosts::default().of(b"api.example.com").is_none());
    }

    #[test]
    fn what_no_host_could_match_is_refused() {
        for name in
            ["", "*", "*.", "a.example.com:80", "A.example.com", "a b", "a/b", "*.*.com", ".example.com", "a*.com"]
        {
            assert!(Hosts::default().add(name, host("a")).is_err(), "{name}");
        }
        let mut hosts = Hosts::default();
        for name in ["a", "*.a"] {
            assert!(hosts.add(name, host("a")).is_ok() && hosts.add(name, host("b")).is_err(), "{name}");
        }
    }
}
