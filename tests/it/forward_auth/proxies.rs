//! The proxies: each started with the files of its example, with other ports in them.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use keyclasp::rpc::proxy::Settings;

use super::parts::{Answer, Keyclasp, Relay, ask, upstream};
use crate::support::{TempDir, eventually};

/// Longest that a proxy may take to listen.
const START: Duration = Duration::from_secs(60);

/// A kind of proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Nginx,
    Caddy,
    HaProxy,
}

impl Kind {
    /// Its example's files.
    pub(super) fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Nginx => &[
                ("nginx.conf", include_str!("../../../examples/nginx/nginx.conf")),
                ("keyclasp.conf", include_str!("../../../examples/nginx/keyclasp.conf")),
                ("keyclasp-server.conf", include_str!("../../../examples/nginx/keyclasp-server.conf")),
                ("keyclasp-upstream.conf", include_str!("../../../examples/nginx/keyclasp-upstream.conf")),
                ("keyclasp-ask.conf", include_str!("../../../examples/nginx/keyclasp-ask.conf")),
            ],
            Self::Caddy => &[("Caddyfile", include_str!("../../../examples/caddy/Caddyfile"))],
            Self::HaProxy => &[
                ("haproxy.cfg", include_str!("../../../examples/haproxy/haproxy.cfg")),
                ("keyclasp.lua", include_str!("../../../examples/haproxy/keyclasp.lua")),
            ],
        }
    }

    /// How it is started in the directory of its files.
    fn command(self) -> Command {
        let words: &[&str] = match self {
            Self::Nginx => &["nginx", "-p", ".", "-c", "nginx.conf", "-g", "daemon off; master_process off;"],
            Self::Caddy => &["caddy", "run", "--adapter", "caddyfile", "--config", "Caddyfile"],
            Self::HaProxy => &["haproxy", "-db", "-f", "haproxy.cfg"],
        };
        let unpacked = tools().join(words[0]);
        let mut command = if unpacked.exists() { Command::new(unpacked) } else { Command::new(words[0]) };
        command.args(&words[1..]);
        command
    }
}

/// A proxy between a client and an upstream, with a keyclasp that it asks.
pub(super) struct Site {
    pub(super) kind: Kind,
    pub(super) keyclasp: Keyclasp,
    pub(super) relay: Relay,
    pub(super) address: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl Site {
    pub(super) fn start(kind: Kind) -> Self {
        Self::with(kind, Settings::default(), |_, text| text)
    }

    /// With each file of the example as `change` makes it.
    pub(super) fn with(kind: Kind, settings: Settings, change: impl Fn(&str, String) -> String) -> Self {
        Self::start_one(kind, settings, change, None)
    }

    /// One that asks `asked` instead of the keyclasp.
    pub(super) fn asking(kind: Kind, asked: SocketAddr) -> Self {
        Self::start_one(kind, Settings::default(), |_, text| text, Some(asked))
    }

    fn start_one(
        kind: Kind,
        settings: Settings,
        change: impl Fn(&str, String) -> String,
        asked: Option<SocketAddr>,
    ) -> Self {
        let keyclasp = Keyclasp::start(&["127.0.0.1/32"], settings);
        let relay = Relay::start(asked.unwrap_or(keyclasp.address));
        let upstream = upstream();
        let address = free_port();
        let dir = TempDir::new();
        for (name, text) in kind.files() {
            let text = text
                .replace("127.0.0.1:7413", &relay.address.to_string())
                .replace("127.0.0.1:8081", &upstream.to_string())
                .replace(":8080", &format!(":{}", address.port()));
            let text = match kind {
                // An administration port, which has one number for all.
                Kind::Caddy => format!("{{\n\tadmin off\n\tauto_https off\n}}\n{text}"),
                Kind::Nginx | Kind::HaProxy => text,
            };
            std::fs::write(dir.path().join(name), change(name, text)).unwrap();
        }
        let log = File::create(dir.path().join("log")).unwrap();
        let child = kind
            .command()
            .current_dir(dir.path())
            .env("HOME", dir.path())
            .env("XDG_DATA_HOME", dir.path())
            .env("XDG_CONFIG_HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{kind:?} cannot be started ({error}); scripts/setup.sh installs it"));
        let mut site = Self { kind, keyclasp, relay, address, child, dir };
        let listens = eventually(START, || {
            if let Some(status) = site.child.try_wait().unwrap() {
                panic!("{kind:?} ended ({status}):\n{}", site.log());
            }
            TcpStream::connect(site.address).ok()
        });
        assert!(listens.is_some(), "{kind:?} does not listen:\n{}", site.log());
        site
    }

    #[track_caller]
    pub(super) fn ask(&self, verb: &str, target: &str, fields: &[(&str, &str)], body: &str) -> Answer {
        ask(self.address, verb, target, fields, body)
    }

    #[track_caller]
    pub(super) fn get(&self, target: &str, fields: &[(&str, &str)]) -> Answer {
        self.ask("GET", target, fields, "")
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where scripts/setup.sh puts programs.
pub(super) fn tools() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    cache.join("keyclasp-tools/bin")
}

/// A port that nobody has now, and nobody gets: no other test by this, and no connection by the system, whose own
/// choice begins at 32768.
fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % 100).unwrap();
    loop {
        let port = 20_000 + (process * 120 + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
