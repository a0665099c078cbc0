//! A keyclasp of one test: the binary that this build made, with files of its own in a temporary
//! directory, on ports of its own, stopped by its process id when the test ends.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{TempDir, eventually};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_keyclasp");

/// Longest that a server may take to come up, on a machine that compiles something else.
const START: Duration = Duration::from_secs(60);
/// Longest that it may take to go.
const STOP: Duration = Duration::from_secs(60);

/// A server that runs, or ran.
#[derive(Debug)]
pub(crate) struct Keyclasp {
    child: Child,
    setup: Setup,
    listen: SocketAddr,
    ops: SocketAddr,
}

/// How a server is to be started.
#[derive(Debug)]
pub(crate) struct Setup {
    dir: TempDir,
    env: Vec<(String, String)>,
    /// What runs it.
    under: Vec<String>,
    files: Files,
}

/// Where its configuration comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    /// `init` is still to make them.
    Missing,
    /// They are there.
    Made,
    /// There shall be none: `serve` by itself.
    None,
}

impl Keyclasp {
    /// A server on the embedded store, ready.
    pub(crate) fn start() -> Self {
        Self::set_up().start()
    }

    /// A server that is not started yet.
    pub(crate) fn set_up() -> Setup {
        Setup { dir: TempDir::new(), env: Vec::new(), under: Vec::new(), files: Files::Missing }
    }

    /// Where gRPC and HTTP are.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where gRPC and HTTP are.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// The directory with keyclasp.toml, keyring.toml, admin.token and, by default, the store.
    pub(crate) fn dir(&self) -> &Path {
        self.setup.dir()
    }

    /// The admin token's file.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.dir().join("admin.token")
    }

    /// The admin token.
    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.token_file()).unwrap().trim_end().to_owned()
    }

    /// All that it wrote on standard output and standard error so far, earlier runs included.
    pub(crate) fn log(&self) -> String {
        self.setup.log()
    }

    /// The status and body of `GET path` on the port for metrics and health.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        http_get(self.ops, path).unwrap_or_default()
    }

    /// Whether it says that it is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.get("/readyz").0 == 200
    }

    /// Waits until it is ready.
    pub(crate) fn wait_ready(&mut self) {
        let ready = eventually(START, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("keyclasp ended ({status}) before it was ready:\n{}", self.log());
            }
            self.is_ready().then_some(())
        });
        assert!(ready.is_some(), "keyclasp is not ready after {START:?}:\n{}", self.log());
    }

    /// Stops it with SIGTERM and answers how it ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let ended = eventually(STOP, || self.child.try_wait().unwrap());
        ended.unwrap_or_else(|| panic!("keyclasp still runs {STOP:?} after SIGTERM:\n{}", self.log()))
    }

    /// The names of its threads that serve.
    pub(crate) fn workers(&self) -> Vec<String> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let names = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        names.map(|name| name.trim_end().to_owned()).filter(|name| name.starts_with("keyclasp-rpc")).collect()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Kills it without a word.
    pub(crate) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, once it has ended, on the same files. Its ports may be others.
    pub(crate) fn start_again(self) -> Self {
        self.into_setup().start()
    }

    /// What it was started from, once it has ended.
    pub(crate) fn into_setup(mut self) -> Setup {
        assert!(self.child.try_wait().unwrap().is_some(), "keyclasp still runs");
        let empty = Setup { dir: TempDir::new(), env: Vec::new(), under: Vec::new(), files: Files::Missing };
        std::mem::replace(&mut self.setup, empty)
    }

    /// The command line of this build, calling this server with its admin token.
    pub(crate) fn command(&self) -> Command {
        let mut command = program();
        command.env("KEYCLASP_ENDPOINT", self.endpoint()).env("KEYCLASP_TOKEN_FILE", self.token_file());
        command
    }
}

impl Drop for Keyclasp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Setup {
    /// The directory of its files.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes its files, with a store other than the embedded one if there is a URL.
    pub(crate) fn init(mut self, store: Option<&str>) -> Self {
        let mut command = program();
        command.arg("init").arg("--dir").arg(self.dir());
        if let Some(url) = store {
            command.args(["--store", url]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "init failed: {}", String::from_utf8_lossy(&output.stderr));
        self.files = Files::Made;
        self
    }

    /// Without files: `serve` finds everything in the environment and the user's data directory.
    pub(crate) fn without_config(mut self) -> Self {
        self.files = Files::None;
        self
    }

    /// On a Redis.
    pub(crate) fn store(self, url: &str) -> Self {
        self.init(Some(url))
    }

    /// With a setting from the environment, such as `KEYCLASP_SERVER__DRAIN`.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Run by a command that becomes it, such as `taskset -c 0`.
    pub(crate) fn under(mut self, words: &[&str]) -> Self {
        self.under = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// With more text at the end of keyclasp.toml.
    pub(crate) fn toml(self, text: &str) -> Self {
        let this = if self.files == Files::Missing { self.init(None) } else { self };
        let mut file = File::options().append(true).open(this.dir().join("keyclasp.toml")).unwrap();
        writeln!(file, "\n{text}").unwrap();
        this
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(self) -> Keyclasp {
        let mut keyclasp = self.start_unready();
        keyclasp.wait_ready();
        keyclasp
    }

    /// Starts it and waits until it listens: its store may be out of reach.
    pub(crate) fn start_unready(self) -> Keyclasp {
        let (mut child, setup, before) = self.spawn();
        let listening = eventually(START, || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("keyclasp ended ({status}) before it listened:\n{}", setup.log());
            }
            announced(setup.log().get(before..)?)
        });
        let (listen, ops) = listening.unwrap_or_else(|| {
            let _ = child.kill();
            let _ = child.wait();
            panic!("keyclasp does not listen after {START:?}:\n{}", setup.log())
        });
        Keyclasp { child, setup, listen, ops }
    }

    /// Starts what is expected to refuse: answers how it ended and what it said.
    pub(crate) fn start_refused(self) -> (ExitStatus, String) {
        let (mut child, setup, before) = self.spawn();
        let ended = eventually(START, || child.try_wait().unwrap());
        let log = setup.log().get(before..).unwrap_or_default().to_owned();
        let Some(status) = ended else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("keyclasp did not refuse to start:\n{log}");
        };
        (status, log)
    }

    fn spawn(self) -> (Child, Self, usize) {
        let this = if self.files == Files::Missing { self.init(None) } else { self };
        let before = this.log().len();
        let log = File::options().create(true).append(true).open(this.log_file()).unwrap();
        let mut command = match this.under.split_first() {
            None => program(),
            Some((first, others)) => {
                let mut command = without_settings(Command::new(first));
                command.args(others).arg(PROGRAM);
                command
            }
        };
        if this.files == Files::Made {
            command.env("KEYCLASP_CONFIG", this.dir().join("keyclasp.toml"));
        }
        command
            .arg("serve")
            // The system chooses the ports, and keyclasp says which.
            .env("KEYCLASP_SERVER__LISTEN", "127.0.0.1:0")
            .env("KEYCLASP_SERVER__OPS_LISTEN", "127.0.0.1:0")
            .envs(this.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = command.spawn().unwrap();
        (child, this, before)
    }

    fn log_file(&self) -> PathBuf {
        self.dir().join("log")
    }

    fn log(&self) -> String {
        std::fs::read(self.log_file()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

/// The program, knowing nothing of the settings and files of whoever runs the tests.
pub(crate) fn program() -> Command {
    without_settings(Command::new(PROGRAM))
}

fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("KEYCLASP_")) {
            command.env_remove(name);
        }
    }
    command
}

/// The two addresses in `… listens on A (…) and B (…)`.
fn announced(log: &str) -> Option<(SocketAddr, SocketAddr)> {
    let (_, rest) = log.split_once(" listens on ")?;
    let mut addresses = rest.lines().next()?.split_whitespace().filter_map(|word| word.parse().ok());
    Some((addresses.next()?, addresses.next()?))
}

/// The status and body of a GET, or none if nobody answers.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let bound = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, bound).ok()?;
    stream.set_read_timeout(Some(bound)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
