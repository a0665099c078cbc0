//! `keyclasp envoy-config`: what Envoy needs to ask this service, ready to use. The text is in the templates beside
//! this file; here is only what is filled in. Contacts nothing.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::Args;

use super::Context;
use super::failure::{Exit, Failure};
use crate::config::Config;
use crate::key::{Realm, Scope};

/// What the configuration is for. `--realm` is the realm that keys must be of; without it, `envoy.hosts` and
/// `envoy.realm` in keyclasp's own configuration say it.
#[derive(Debug, Args)]
#[command(
    after_help = "Envoy finds its own token in its environment: KEYCLASP_TOKEN, the token of one of the [[callers]] \
with the role validator.\nTry it: keyclasp envoy-config --full --realm acme > envoy.yaml && envoy --mode validate -c envoy.yaml"
)]
pub(super) struct EnvoyConfig {
    /// Prints a whole configuration, with a listener and an upstream, instead of the parts that belong into another.
    #[arg(long)]
    full: bool,
    /// Where Envoy finds keyclasp; repeat for each replica. Default: `server.listen` of the configuration.
    #[arg(long = "replica", value_name = "HOST:PORT")]
    replicas: Vec<Address>,
    /// A scope that every request needs; repeat for more. Routes can say others.
    #[arg(long = "scope", value_name = "SCOPE", value_parser = scope)]
    scopes: Vec<Scope>,
    /// An origin whose pages may call from a browser (CORS), such as `https://app.example`; repeat for more.
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    origins: Vec<String>,
    /// Has Envoy pass header values on as they are, also where they are no UTF-8.
    #[arg(long)]
    raw_headers: bool,
    /// Has Envoy let every request pass while keyclasp is away. What keyclasp refuses stays refused.
    #[arg(long)]
    fail_open: bool,
    /// Where Envoy listens (with --full).
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where Envoy's administration interface listens (with --full).
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
    /// What Envoy protects (with --full).
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000")]
    upstream: Address,
}

impl EnvoyConfig {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        let realm = context.global.realm.as_deref().filter(|realm| !realm.is_empty()).map(Realm::parse).transpose();
        let realm = realm.map_err(|error| Failure::usage(format!("--realm: {error}")))?;
        let replicas = if self.replicas.is_empty() { vec![listening(context)?] } else { self.replicas.clone() };
        context.out.text(&self.render(realm.as_ref(), &replicas)).map(|()| Exit::Done)
    }

    fn render(&self, realm: Option<&Realm>, replicas: &[Address]) -> String {
        let realm = realm.map(|realm| format!("keyclasp.realm: {}", quoted(realm.as_str())));
        let scopes: Vec<_> = self.scopes.iter().map(Scope::as_str).collect();
        let scopes = (!scopes.is_empty()).then(|| format!("keyclasp.scopes: {}", quoted(&scopes.join(" "))));
        let extensions: Vec<_> = [realm, scopes].into_iter().flatten().collect();
        let origins: Vec<_> = self.origins.iter().map(|origin| format!("{{ exact: {} }}", quoted(origin))).collect();
        let cors = if origins.is_empty() {
            String::new()
        } else {
            fill(include_str!("envoy_config/cors.yaml"), &[("origins", &origins.join(", "))])
        };
        let endpoints = replicas.iter().fold(String::new(), |mut text, replica| {
            let _ = writeln!(text, "- endpoint: {{ address: {{ socket_address: {} }} }}", replica.socket_address());
            text
        });

        let raw_headers = self.raw_headers.to_string();
        // A replica that hangs shall not use up all the time; but where Envoy fails open, it must not give up a try
        // before keyclasp has had the time that it was told of.
        let (failure_mode, one_try) = if self.fail_open {
            (include_str!("envoy_config/open.yaml"), "1s")
        } else {
            (include_str!("envoy_config/closed.yaml"), "0.25s")
        };
        let filters = [("raw_headers", raw_headers.as_str()), ("failure_mode", failure_mode), ("try", one_try)];
        let filters = fill(include_str!("envoy_config/filters.yaml"), &filters);
        let host = [("cors", cors.as_str()), ("extensions", &extensions.join(", "))];
        let host = fill(include_str!("envoy_config/host.yaml"), &host);
        let cluster = [("discovery", discovery(replicas)), ("endpoints", &endpoints)];
        let cluster = fill(include_str!("envoy_config/cluster.yaml"), &cluster);
        let upstream = std::slice::from_ref(&self.upstream);
        let whole =
            if self.full { include_str!("envoy_config/full.yaml") } else { include_str!("envoy_config/snippet.yaml") };
        fill(
            whole,
            &[
                ("edge", include_str!("envoy_config/edge.yaml")),
                ("filters", &filters),
                ("host", &host),
                ("routes", include_str!("envoy_config/routes.yaml")),
                ("cluster", &cluster),
                ("admin", &Address::from(self.admin).socket_address()),
                ("listen", &Address::from(self.listen).socket_address()),
                ("upstream", &self.upstream.socket_address()),
                ("upstream_discovery", discovery(upstream)),
            ],
        )
    }
}

/// A name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// As Envoy writes it.
    fn socket_address(&self) -> String {
        format!("{{ address: {}, port_value: {} }}", quoted(&self.host), self.port)
    }

    fn is_ip(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || "write it as keyclasp.example:7413, 192.0.2.1:7413 or [2001:db8::1]:7413".to_owned();
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        let is_name =
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        match port.parse() {
            Ok(port) if is_name => Ok(Self { host: host.to_owned(), port }),
            _ => Err(form()),
        }
    }
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::parse(text).map_err(|error| error.to_string())
}

/// Where this service listens, as a program on this machine reaches it.
fn listening(context: &Context) -> Result<Address, Failure> {
    let config = Config::load(&context.sources()).map_err(|problems| Failure::refused(problems.to_string()))?;
    let mut listen = config.server.listen;
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(listen.into())
}

/// How Envoy finds these.
fn discovery(addresses: &[Address]) -> &'static str {
    if addresses.iter().all(Address::is_ip) { "STATIC" } else { "STRICT_DNS" }
}

/// A string of YAML: JSON's are among them.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `template` with each `{{name}}` replaced. One that has a line to itself is replaced by lines of its own
/// indentation, or by none.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::new();
    for line in template.lines() {
        let indentation = line.len() - line.trim_start().len();
        let indentation = line.get(..indentation).unwrap_or_default();
        let block = values.iter().find(|(name, _)| line.trim() == format!("{{{{{name}}}}}"));
        if let Some((_, lines)) = block {
            for line in lines.lines() {
                let _ = writeln!(filled, "{}", format!("{indentation}{line}").trim_end());
            }
            continue;
        }
        let inline =
            values.iter().fold(line.to_owned(), |line, (name, value)| line.replace(&format!("{{{{{name}}}}}"), value));
        let _ = writeln!(filled, "{inline}");
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let shown = |text: &str| text.parse::<Address>().map(|address| address.socket_address());
        assert_eq!(shown("127.0.0.1:1"), Ok(r#"{ address: "127.0.0.1", port_value: 1 }"#.to_owned()));
        assert_eq!(shown("[::1]:1"), Ok(r#"{ address: "::1", port_value: 1 }"#.to_owned()));
        assert_eq!(shown("kc.example:7413"), Ok(r#"{ address: "kc.example", port_value: 7413 }"#.to_owned()));
        for wrong in ["", "kc", "kc:", ":1", "kc:65536", "::1:7413", "a b:1", "{x}:1", "http://kc:1"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
        let parse = |text: &str| text.parse::<Address>().unwrap();
        assert_eq!(discovery(&[parse("127.0.0.1:1"), parse("[::1]:1")]), "STATIC");
        assert_eq!(discovery(&[parse("127.0.0.1:1"), parse("kc:1")]), "STRICT_DNS");
    }

    #[test]
    fn templates() {
        assert_eq!(fill("a: {{x}}\n  {{y}}\n", &[("x", "1"), ("y", "b:\n- 2\n")]), "a: 1\n  b:\n  - 2\n");
        assert_eq!(fill("a\n{{y}}\nb", &[("y", "")]), "a\nb\n");
    }

    #[test]
    fn nothing_stays_to_be_filled_in_and_all_is_yaml() {
        let parse = |text: &str| text.parse::<Address>().unwrap();
        for full in [false, true] {
            let config = EnvoyConfig {
                full,
                replicas: Vec::new(),
                scopes: vec![Scope::parse("a:b").unwrap(), Scope::parse("c:d").unwrap()],
                origins: vec!["https://app.example".to_owned()],
                raw_headers: true,
                fail_open: full,
                listen: "[::1]:8080".parse().unwrap(),
                admin: "127.0.0.1:9901".parse().unwrap(),
                upstream: parse("up.example:80"),
            };
            let realm = Realm::parse("a \"quoted\" {{realm}}").ok();
            let text = config.render(realm.as_ref(), &[parse("127.0.0.1:1"), parse("127.0.0.1:2")]);
            let yaml: serde_yaml_ng::Value =
                serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert!(yaml.is_mapping());
            assert_eq!(text.matches("{{").count(), usize::from(realm.is_some()), "{text}");
            assert!(text.contains(r#"keyclasp.scopes: "a:b c:d""#), "{text}");
            assert!(text.contains("port_value: 1 }") && text.contains("port_value: 2 }"), "{text}");
        }
    }
}
