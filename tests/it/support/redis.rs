//! A real redis-server of one test: on a free loopback port, in a directory of its own, stopped by
//! its process id when the test ends.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::{FromRedisValue, Value};
use rustix::process::{Pid, Signal, kill_process};

use super::{TempDir, eventually};

/// A running (or, for a while, stopped) server.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Option<Child>,
    port: u16,
    dir: TempDir,
    settings: Vec<String>,
}

impl RedisServer {
    /// A server without persistence.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server with these settings, as on the command line: `["appendonly", "yes"]`.
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut server = Self { child: None, port: 0, dir: TempDir::new(), settings };
        for _ in 0..10 {
            // Free now; should somebody be faster, the next one will be too.
            server.port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
            if server.try_start() {
                return server;
            }
        }
        panic!("redis-server does not start; is it installed?");
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`], on the same port and directory.
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none() && self.try_start(), "redis-server does not start again");
    }

    fn try_start(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"]).arg(self.dir.path());
        command.args(["--save", "", "--unixsocket"]).arg(self.socket());
        for pair in self.settings.chunks(2) {
            command.arg(format!("--{}", pair[0])).arg(&pair[1]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        for _ in 0..1000 {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            // A stranger on the port would not know this directory.
            let dir = self.try_command::<Vec<String>>(&["CONFIG", "GET", "dir"]);
            if dir.is_ok_and(|answer| answer.iter().any(|dir| Path::new(dir) == self.dir.path())) {
                self.child = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }

    /// `redis://…`
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Path of its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Sends one command on a connection of its own.
    pub(crate) fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_command(words).unwrap()
    }

    /// Sends one command that may be refused.
    pub(crate) fn try_command<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query(&mut connection)
    }

    /// Sends one command whose answer does not matter.
    pub(crate) fn run(&self, words: &[&str]) {
        let _: Value = self.command(words);
    }

    /// SET with bytes.
    pub(crate) fn set(&self, key: &str, value: &[u8]) {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        let _: Value = redis::cmd("SET").arg(key).arg(value).query(&mut connection).unwrap();
    }

    /// Everything that it would write to a disk. Uncompressed only with `rdbcompression no`.
    pub(crate) fn stored_bytes(&self) -> Vec<u8> {
        self.run(&["SAVE"]);
        std::fs::read(self.dir.path().join("dump.rdb")).unwrap()
    }

    /// Ends it without a word (SIGKILL).
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Freezes it: the kernel still accepts connections for it.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().map(Pid::from_child).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

/// A primary and a replica that has caught up with it.
#[derive(Debug)]
pub(crate) struct Replicated {
    /// The primary.
    pub(crate) primary: RedisServer,
    /// The replica.
    pub(crate) replica: RedisServer,
}

impl Replicated {
    /// Starts both. The first replica that attaches gives its primary another name, so this comes before
    /// anybody uses the primary.
    pub(crate) fn start() -> Self {
        // It need not wait for more replicas before it sends its data.
        let primary = RedisServer::start_with(&["repl-diskless-sync-delay", "0"]);
        let replica = RedisServer::start_with(&["replicaof", &format!("127.0.0.1 {}", primary.port())]);
        // What both say of the link is not enough: the first commands may yet wait for a second.
        primary.run(&["SET", "probe", "1"]);
        let has = |probes: u64| {
            let found = || replica.try_command::<u64>(&["EXISTS", "probe"]).is_ok_and(|found| found == probes);
            eventually(Duration::from_secs(30), || found().then_some(())).expect("the replica follows");
        };
        has(1);
        primary.run(&["DEL", "probe"]);
        has(0);
        Self { primary, replica }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
