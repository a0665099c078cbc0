//! `[proxy]`, `[envoy]` and `[forward_auth]`: what proxies may ask, and how they are answered.

use std::path::Path;

use super::problem::{Problem, Problems};
use super::setting::{Fault, Section, Setting, place, read, section};
use super::source::{Raw, Table};
use super::types::{Number, parsed, text};
use crate::key::{Cidrs, Realm, Scope};
use crate::rpc::proxy::{Host, Hosts, Settings, Source, Sources};

section! {
    /// What holds for every proxy that asks whether a request may pass.
    ["proxy"] pub(super) struct ProxySection {
        /// Where a key may stand in a request: `apikey`, `bearer`, `basic` (schemes of Authorization; a bearer token
        /// or a password that has not the form of a key is somebody else's and passes on), `x-api-key`, `api-key`
        /// (header fields), `query:NAME`, `cookie:NAME`. A request with two different keys is refused.
        sources: Vec<Source> = ["apikey", "bearer", "basic", "x-api-key", "api-key"],
        /// Decide, count and log, but refuse nobody: every request passes, without an identity where it would have
        /// been refused. A route can ask for the same for itself.
        dry_run: bool = false,
    }
    check |proxy, reader| {
        if proxy.sources.is_empty() {
            reader.refuse("sources", "is empty: no request would have a key", "name at least one source");
        }
    }
}

section! {
    /// Envoy's ext_authz, on the port of the API. Its callers need the role `validator`. A route names its realm and
    /// scopes by `context_extensions`.
    ["envoy"] pub(super) struct EnvoySection {
        /// The realm of routes that name none, where no host of `[[envoy.hosts]]` does. Unset: such requests are refused.
        realm: Option<Realm>,
        /// Proxies before Envoy: where a request comes from one of them, its client is the rightmost entry of
        /// X-Forwarded-For that is none of them. The client's address counts for keys that are bound to networks.
        trusted_proxies: Networks = [],
        /// What Envoy is answered while nobody can decide: `deny` (the request is refused with 503) or `error` (an
        /// RPC error: Envoy's `status_on_error`, or every request passes under its `failure_mode_allow`).
        on_unavailable: OnUnavailable = "deny",
        /// Largest question of Envoy's, in bytes: the header fields of a request, and its body under `with_request_body`.
        max_message_bytes: Number<65_536, 67_108_864> = 8_388_608,
    }
    check |_, _| {}
}

section! {
    /// Realm and scopes by host, for a mesh whose routes cannot name them, as Istio's. As many tables as there are
    /// hosts. A route that names a realm, or scopes, goes by those.
    ["envoy.hosts"] pub(super) struct HostSection {
        /// The host, in lower case and without a port; `*.example.com` is for every host below `example.com`.
        host: HostName,
        /// The realm of its keys.
        realm: Realm,
        /// Scopes that a key must cover, all of them.
        scopes: Vec<Scope> = [],
    }
    check |_, _| {}
}

section! {
    /// The HTTP endpoint `/forward-auth`, which nginx, Traefik, Caddy and HAProxy ask. A route names its realm and
    /// scopes in the query that the proxy's configuration fixes.
    ["forward_auth"] pub(super) struct ForwardAuthSection {
        /// Networks of the proxies that may ask: their address is all that they prove. Empty: the endpoint does not
        /// exist. A proxy that publishes keyclasp itself must not be one of them, or must not pass `/forward-auth` on:
        /// its clients would ask in its name.
        peers: Networks = [],
        /// Proxies before those that ask: the client is the rightmost entry of X-Forwarded-For that is none of them.
        trusted_proxies: Networks = [],
    }
    check |_, _| {}
}

/// What proxies may ask, and how they are answered.
#[derive(Debug, Clone)]
pub struct Proxies {
    /// For Envoy.
    pub envoy: Settings,
    /// Whether Envoy is told of an outage by an RPC error.
    pub envoy_outage_is_error: bool,
    /// Largest question of Envoy's, in bytes.
    pub envoy_message_bytes: usize,
    /// For forward-auth.
    pub forward_auth: Settings,
    /// Who may ask by forward-auth; empty: nobody.
    pub forward_auth_peers: Cidrs,
}

/// Reads the tables `proxy`, `envoy` and `forward_auth`.
pub(super) fn proxies(
    proxy: &Table,
    mut envoy: Table,
    forward_auth: &Table,
    base: &Path,
    problems: &mut Problems,
) -> Option<Proxies> {
    let hosts = hosts(envoy.take_tables("hosts", HostSection::PATH, problems), base, problems);
    let proxy = read::<ProxySection>(&[proxy], ProxySection::PATH, &[], base, problems);
    let envoy = read::<EnvoySection>(&[&envoy], EnvoySection::PATH, &["hosts"], base, problems);
    let forward_auth = read::<ForwardAuthSection>(&[forward_auth], ForwardAuthSection::PATH, &[], base, problems);
    let (proxy, envoy, forward_auth) = (proxy?, envoy?, forward_auth?);
    let settings = |realm, hosts, trusted_proxies| Settings {
        sources: Sources::new(proxy.sources.iter().cloned()),
        dry_run: proxy.dry_run,
        realm,
        hosts,
        trusted_proxies,
    };
    Some(Proxies {
        envoy_outage_is_error: envoy.on_unavailable == OnUnavailable::Error,
        envoy_message_bytes: usize::try_from(envoy.max_message_bytes.get()).unwrap_or(usize::MAX),
        envoy: settings(envoy.realm, hosts, envoy.trusted_proxies.0),
        forward_auth: settings(None, Hosts::default(), forward_auth.trusted_proxies.0),
        forward_auth_peers: forward_auth.peers.0,
    })
}

fn hosts(tables: Vec<Table>, base: &Path, problems: &mut Problems) -> Hosts {
    let mut hosts = Hosts::default();
    for table in tables {
        let Some(section) = read::<HostSection>(&[&table], HostSection::PATH, &[], base, problems) else { continue };
        let host = Host { realm: section.realm, scopes: section.scopes };
        if hosts.add(&section.host.0, host).is_err() {
            let place = place(&[&table], "host");
            let remedy = "give each host one table";
            problems.push(Problem::new(place, "envoy.hosts.host", "is there twice", remedy));
        }
    }
    hosts
}

parsed!(Source, "a place where keys stand", "\"x-api-key\"", Source::parse);

/// What Envoy is answered while nobody can decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnUnavailable {
    Deny,
    Error,
}

parsed!(OnUnavailable, "`deny` or `error`", "\"deny\"", |text| match text {
    "deny" => Ok(Self::Deny),
    "error" => Ok(Self::Error),
    _ => Err(crate::key::Invalid::new("use deny or error")),
});

/// A host as it is configured.
#[derive(Debug, Clone)]
pub(super) struct HostName(String);

parsed!(HostName, "a host", "\"api.example.com\"", |text| { Hosts::check(text).map(|()| Self(text.to_owned())) });

/// Networks.
#[derive(Debug, Clone)]
pub(super) struct Networks(Cidrs);

impl Setting for Networks {
    fn form() -> String {
        format!("a list of up to {} networks", Cidrs::MAX)
    }

    fn example() -> String {
        "[\"10.0.0.0/8\", \"2001:db8::/32\"]".to_owned()
    }

    fn parse(value: &Raw, _: &Path) -> Result<Self, Fault> {
        let texts: Option<Vec<&str>> = match value {
            Raw::Array(nodes) => nodes.iter().map(|node| text(&node.value)).collect(),
            Raw::Env(text) => Some(text.split(',').map(str::trim).filter(|one| !one.is_empty()).collect()),
            _ => None,
        };
        let texts = texts.ok_or_else(Fault::form::<Self>)?;
        Cidrs::parse(&texts).map(Self).map_err(|error| Fault::with::<Self>(format!("it {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::super::{Config, Sources as From};
    use super::*;

    fn load(settings: &str, env: &[(&str, &str)]) -> Result<Proxies, String> {
        let scratch = Scratch::new();
        let file = scratch.write("keyclasp.toml", settings);
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load(&From { file: Some(file), env })
            .map(|config| config.proxies)
            .map_err(|problems| problems.to_string())
    }

    #[test]
    fn proxies_are_configured() {
        let settings = r#"
            [proxy]
            sources = ["cookie:key"]
            [envoy]
            realm = "acme"
            trusted_proxies = ["10.0.0.0/8"]
            on_unavailable = "error"
            [[envoy.hosts]]
            host = "api.example.com"
            realm = "shop"
            scopes = ["orders:read"]
        "#;
        let env = [("KEYCLASP_FORWARD_AUTH__PEERS", "127.0.0.1, ::1"), ("KEYCLASP_PROXY__DRY_RUN", "true")];
        let proxies = load(settings, &env).unwrap();
        assert!(proxies.envoy_outage_is_error && proxies.envoy.dry_run && proxies.forward_auth.dry_run);
        assert_eq!(proxies.envoy.sources, Sources::new([Source::Cookie("key".to_owned())]));
        assert_eq!(proxies.envoy.sources, proxies.forward_auth.sources);
        assert_eq!(proxies.envoy.realm.as_ref().unwrap().as_str(), "acme");
        assert_eq!(proxies.forward_auth.realm, None);
        assert_eq!(proxies.forward_auth_peers, Cidrs::parse(&["127.0.0.1", "::1"]).unwrap());
        assert_eq!(proxies.envoy.trusted_proxies, Cidrs::parse(&["10.0.0.0/8"]).unwrap());
        assert!(load("", &[]).unwrap().forward_auth_peers.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (settings, named) in [
            ("[proxy]\nsources = []", "proxy.sources"),
            ("[proxy]\nsources = [\"header\"]", "proxy.sources"),
            ("[envoy]\non_unavailable = \"allow\"", "envoy.on_unavailable"),
            ("[envoy]\nhosts = 1", "envoy.hosts"),
            ("[envoy]\nhost = 1", "envoy.host"),
            ("[[envoy.hosts]]\nhost = \"a:80\"\nrealm = \"a\"", "envoy.hosts.host"),
            ("[[envoy.hosts]]\nhost = \"a\"", "envoy.hosts.realm"),
            (
                "[[envoy.hosts]]\nhost = \"a\"\nrealm = \"a\"\n[[envoy.hosts]]\nhost = \"a\"\nrealm = \"b\"",
                "envoy.hosts.host",
            ),
            ("[forward_auth]\npeers = [\"10.0.0.1/8\"]", "forward_auth.peers"),
        ] {
            let problems = load(settings, &[]).unwrap_err();
            assert!(problems.contains(named), "{settings}: {problems}");
        }
    }
}
