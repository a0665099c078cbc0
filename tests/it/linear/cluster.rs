//! The processes of a run: keyclasp replicas that share keyring, token and configuration, each behind
//! a proxy of its own to Redis, and one to three Redis servers. Starts, stops and finds them; what is
//! done to them is the nemesis' business.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyclasp::clock::{Clock as _, SystemClock};

use super::history::{Effect, Fault, History, Op};
use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;
use crate::support::server::{Keyclasp, Setup};

/// How many replicas of keyclasp there are.
pub(super) const REPLICAS: usize = 3;
/// The lease of the fleet: short, so that many end within a run.
const LEASE: &str = "300ms";
/// Longest that processes may take to find each other.
const PATIENCE: Duration = Duration::from_secs(60);

/// What Redis is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topology {
    /// One server.
    Standalone,
    /// A primary with one replica, and a spare server that may take the place of either.
    PrimaryAndReplica,
}

/// What everybody in a run knows.
#[derive(Debug)]
pub(super) struct Shared {
    clock: SystemClock,
    /// Where each replica of keyclasp listens now.
    addresses: Vec<Mutex<SocketAddr>>,
    /// The way to Redis of each of them.
    pub(super) proxies: Vec<Proxy>,
    pub(super) token: String,
    history: Mutex<History>,
    stopped: AtomicBool,
    /// keyclasp.toml, keyring.toml, admin.token.
    _home: Setup,
}

impl Shared {
    /// Time since the run began.
    pub(super) fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    pub(super) fn address(&self, replica: usize) -> SocketAddr {
        *self.addresses[replica].lock().unwrap()
    }

    pub(super) fn record(&self, op: Op) {
        self.history.lock().unwrap().ops.push(op);
    }

    /// Does something bad, and records it.
    pub(super) fn fault(&self, name: &'static str, target: impl Into<String>, effect: Effect, fault: impl FnOnce()) {
        let start = self.now();
        fault();
        let fault = Fault { name, target: target.into(), start, end: self.now(), effect };
        self.history.lock().unwrap().faults.push(fault);
    }

    /// Whether the nemesis and the clients are to stop.
    pub(super) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    pub(super) fn stop(&self, stopped: bool) {
        self.stopped.store(stopped, Ordering::SeqCst);
    }

    /// What happened so far; nothing from then on.
    pub(super) fn take_history(&self) -> History {
        std::mem::take(&mut *self.history.lock().unwrap())
    }
}

/// A replica of keyclasp.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) index: usize,
    process: Option<Keyclasp>,
    /// What libfaketime reads.
    pub(super) wall_clock: WallClock,
}

impl Replica {
    /// The process; there is one unless a restart failed.
    pub(super) fn process(&mut self) -> &mut Keyclasp {
        self.process.as_mut().unwrap()
    }

    /// Starts it again after it has ended, and tells where it listens. It may not be ready.
    pub(super) fn start_again(&mut self, shared: &Shared) {
        let setup = self.process.take().unwrap().into_setup();
        let process = setup.start_unready();
        *shared.addresses[self.index].lock().unwrap() = process.listen();
        self.process = Some(process);
    }
}

/// The wall clock of a process: libfaketime steps it, and leaves the monotonic ones alone.
#[derive(Debug)]
pub(super) struct WallClock(PathBuf);

impl WallClock {
    /// A clock that is right, for a process that is still to be started.
    pub(super) fn of(setup: Setup) -> (Setup, Self) {
        let library = std::fs::read_dir("/usr/lib")
            .unwrap()
            .map(|dir| dir.unwrap().path().join("faketime/libfaketimeMT.so.1"))
            .find(|library| library.exists())
            .expect("libfaketime is not in /usr/lib/*/faketime; scripts/setup.sh installs it");
        let clock = Self(setup.dir().join("wall-clock"));
        clock.step(0);
        let setup = setup
            .env("LD_PRELOAD", library.to_str().unwrap())
            .env("FAKETIME_TIMESTAMP_FILE", clock.0.to_str().unwrap())
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        (setup, clock)
    }

    /// Makes it wrong by so many seconds, within a second or two.
    pub(super) fn step(&self, seconds: i64) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}")).unwrap();
        std::fs::rename(&new, &self.0).unwrap();
    }
}

/// The Redis servers.
#[derive(Debug)]
pub(super) struct Nodes {
    servers: Vec<RedisServer>,
    /// The one that proxies lead to.
    pub(super) primary: usize,
    /// The one that follows it.
    pub(super) replica: usize,
    /// The one that belongs to nothing.
    pub(super) spare: usize,
}

impl Nodes {
    /// Servers that lose nothing that they answered.
    pub(super) fn start(topology: Topology) -> Self {
        let settings = ["appendonly", "yes", "appendfsync", "always", "repl-diskless-sync-delay", "0"];
        let count = if topology == Topology::Standalone { 1 } else { 3 };
        let servers = (0..count).map(|_| RedisServer::start_with(&settings)).collect();
        let nodes = Self { servers, primary: 0, replica: count.min(2) - 1, spare: count - 1 };
        if topology == Topology::PrimaryAndReplica {
            nodes.follow(nodes.replica);
            nodes.wait_in_step();
        }
        nodes
    }

    pub(super) fn primary(&mut self) -> &mut RedisServer {
        &mut self.servers[self.primary]
    }

    pub(super) fn server(&mut self, node: usize) -> &mut RedisServer {
        &mut self.servers[node]
    }

    /// Starts a server again that was killed, until it has read what is on its disk.
    pub(super) fn start_again(&mut self, node: usize) {
        let server = &mut self.servers[node];
        server.start_again();
        let answers = eventually(PATIENCE, || server.try_command::<String>(&["PING"]).ok());
        assert!(answers.is_some(), "Redis {node} does not come up");
    }

    /// Makes a server a replica of the primary.
    pub(super) fn follow(&self, node: usize) {
        let port = self.servers[self.primary].port().to_string();
        self.servers[node].run(&["REPLICAOF", "127.0.0.1", &port]);
    }

    /// Waits until the replica has what the primary has, and takes each write from it.
    pub(super) fn wait_in_step(&self) {
        let says = |node: usize, what: &str| {
            self.servers[node].try_command::<String>(&["INFO", "replication"]).is_ok_and(|info| info.contains(what))
        };
        let in_step = || says(self.replica, "master_link_status:up") && says(self.primary, "state=online");
        let waited = eventually(PATIENCE, || in_step().then_some(()));
        assert!(waited.is_some(), "Redis {} does not follow {}", self.replica, self.primary);
    }

    /// Whether there is a replica at all.
    pub(super) fn replicated(&self) -> bool {
        self.servers.len() > 1
    }
}

/// Starts replicas over `nodes`, all ready.
pub(super) fn start(topology: Topology, nodes: &Nodes) -> (Shared, Vec<Replica>) {
    let port = nodes.servers[nodes.primary].port();
    let proxies: Vec<_> = (0..REPLICAS).map(|_| Proxy::start(port)).collect();
    let home = Keyclasp::set_up().store(&nodes.servers[nodes.primary].url());
    let replicas: Vec<_> =
        proxies.iter().enumerate().map(|(index, proxy)| replica(index, proxy, topology, home.dir())).collect();
    let shared = Shared {
        clock: SystemClock::new(),
        addresses: replicas.iter().map(|replica| Mutex::new(replica.process.as_ref().unwrap().listen())).collect(),
        proxies,
        token: std::fs::read_to_string(home.dir().join("admin.token")).unwrap().trim_end().to_owned(),
        history: Mutex::default(),
        stopped: AtomicBool::new(false),
        _home: home,
    };
    (shared, replicas)
}

fn replica(index: usize, proxy: &Proxy, topology: Topology, home: &Path) -> Replica {
    let setup = Keyclasp::set_up()
        .without_config()
        .env("KEYCLASP_CONFIG", home.join("keyclasp.toml").to_str().unwrap())
        .env("KEYCLASP_STORE__URL", &format!("redis://127.0.0.1:{}", proxy.port()))
        .env("KEYCLASP_FENCE__LEASE", LEASE);
    let setup = match topology {
        Topology::Standalone => setup,
        Topology::PrimaryAndReplica => setup.env("KEYCLASP_STORE__REPLICAS", "1"),
    };
    let (setup, wall_clock) = WallClock::of(setup);
    Replica { index, process: Some(setup.start()), wall_clock }
}
