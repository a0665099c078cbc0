//! Processes that are measured: started on a core, waited for, stopped by their id.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use keyclasp::clock::{Clock as _, SystemClock};
use rustix::process::{Pid, Signal, kill_process};

/// Longest that a process may take to come up or to end.
const LIMIT: Duration = Duration::from_secs(60);
const FIRST_PORT: u32 = 12_000;
const PORTS: u32 = 20_000;

/// A running process; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Starts `program` on `core`. What it says goes to `log`.
    pub(crate) fn start(
        core: usize,
        program: &Path,
        log: &Path,
        with: impl FnOnce(&mut Command),
    ) -> anyhow::Result<Self> {
        let mut command = Command::new("taskset");
        command.arg("-c").arg(core.to_string()).arg(program).stdin(Stdio::null());
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        command.stdout(log.try_clone()?).stderr(log);
        with(&mut command);
        let what = program.display().to_string();
        let child = command.spawn().context("`taskset` (util-linux) does not start")?;
        Ok(Self { child, what })
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Moves all of its threads to `core`.
    pub(crate) fn move_to(&self, core: usize) -> anyhow::Result<()> {
        let status = Command::new("taskset")
            .arg("-acp")
            .arg(core.to_string())
            .arg(self.id().to_string())
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "{} cannot be moved to core {core}", self.what);
        Ok(())
    }

    /// Waits until `ready`; answers how long that took.
    pub(crate) fn wait(&mut self, ready: impl Fn() -> bool) -> anyhow::Result<Duration> {
        let clock = SystemClock::new();
        loop {
            if ready() {
                return Ok(clock.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended: {status}", self.what);
            }
            ensure!(clock.elapsed() < LIMIT, "{} was not ready within {LIMIT:?}", self.what);
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    /// SIGTERM, and the end.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        self.end(Signal::TERM)
    }

    /// SIGKILL, and the end.
    pub(crate) fn kill(self) -> anyhow::Result<()> {
        self.end(Signal::KILL)
    }

    fn end(mut self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal)?;
        let clock = SystemClock::new();
        while self.child.try_wait()?.is_none() {
            ensure!(clock.elapsed() < LIMIT, "{} did not end within {LIMIT:?}", self.what);
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing to do where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory that goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// In `parent`.
    pub(crate) fn new(parent: &Path) -> anyhow::Result<Self> {
        let path = std::path::absolute(parent)?.join(format!("bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A loopback address that nobody listens on now, below the ports that the kernel gives to those who connect.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PORTS {
        let place = (std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(FIRST_PORT + place)?));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port between {FIRST_PORT} and {} is free", FIRST_PORT + PORTS)
}

/// Whether somebody listens.
pub(crate) fn listens(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

/// The body of an HTTP answer, if it is 200.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|status| *status == "200").map(|_| body.to_owned())
}
