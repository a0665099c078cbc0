//! The load harness behind `make bench`: starts the references, keyclasp and a Redis, each on its
//! core, measures them in turns, and writes `docs/BENCHMARKS.md`. No figure is a test: a target is
//! met or missed, and the page says which.
//!
//! The same program is one of the references (`noop`) and the helpers that need a process of their
//! own: one link with the release profile is dear.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports to a terminal")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

mod authz;
mod cold;
mod compare;
mod drive;
mod fill;
mod fleet;
mod flood;
mod footprint;
mod http;
mod machine;
#[path = "../made.rs"]
mod made;
mod memory;
#[path = "../noop.rs"]
mod noop;
mod outage;
mod process;
mod profile;
mod proxies;
mod reads;
mod remote;
mod report;
mod servers;
mod train;
mod wire;

use compare::{Contender, Ratio};
use machine::Cores;
use made::Mode;
use memory::Many;
use process::Scratch;
use reads::Reads;
use remote::{Beside, Build};
use report::Report;
use servers::{Home, Plain, Programs, Redis, reference};

// As keyclasp has it; the stock reference is a program of its own because of this.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(about = "Measures keyclasp beside its references")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure everything.
    Run(Options),
    /// Count the instructions of a call; needs valgrind.
    Profile(Options),
    /// A profile-guided build: each kind of call for a while, against a keyclasp that writes down where it goes, and
    /// the references within this program, for which that goes as well.
    Train {
        /// That keyclasp.
        keyclasp: PathBuf,
        /// Where files are kept meanwhile.
        #[arg(long, default_value = "target")]
        scratch: PathBuf,
    },
    /// The reference: a no-op on keyclasp's runtime and allocator.
    Noop {
        /// Where it listens.
        address: SocketAddr,
        /// Bytes of an answer.
        len: usize,
    },
    /// The reference of ext_authz: a server that allows everything, on keyclasp's runtime and allocator.
    Allow {
        /// Where it listens.
        address: SocketAddr,
        /// Not used.
        len: usize,
    },
    /// The reference of forward-auth: a server that answers 200 to everything.
    Constant {
        /// Where it listens.
        address: SocketAddr,
        /// Not used.
        len: usize,
    },
    /// Round trips to a Redis, in µs.
    Reads {
        /// The Redis.
        url: String,
        /// A file with the ids of keys in it.
        ids: PathBuf,
        /// How many reads.
        calls: usize,
    },
    /// A check that is answered from memory, in ns.
    Hit {
        /// Why it may be: `embedded` or `leased`.
        mode: String,
        /// The cores that make it at the same time.
        cores: Vec<usize>,
    },
    /// Many keys in memory.
    Memory {
        /// How many.
        keys: usize,
        /// Room for them, in bytes.
        room: u64,
    },
    /// Fill an embedded store.
    FillEmbedded {
        /// Its directory.
        dir: PathBuf,
        /// How many keys.
        keys: usize,
    },
    /// Fill a Redis, and say what the keys take.
    FillRedis {
        /// The Redis.
        url: String,
        /// How many keys.
        keys: usize,
    },
}

#[derive(Debug, Args)]
struct Options {
    /// Write the page here; otherwise to the terminal.
    #[arg(long)]
    write: Option<PathBuf>,
    /// A look whether it works: one short repetition, few keys. The figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// How often everything is measured. Many short turns: a machine that is shared is slow for seconds at
    /// a time, which all of those that are compared should meet alike.
    #[arg(long, default_value_t = 15)]
    repetitions: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Where files are kept meanwhile.
    #[arg(long, default_value = "target")]
    scratch: PathBuf,
    /// Calls in flight; with anything but one, over eight connections.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    in_flight: Vec<usize>,
    /// Only these parts: compare, serial, redis, flood, memory, envoy, fleet, outage, cold, footprint.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where plain builds are, such as `target/release`: the stock reference, and a keyclasp that is measured beside
    /// the one that lies beside this program where Redis is read.
    #[arg(long)]
    plain: Option<PathBuf>,
}

impl Options {
    /// Writes the page where it is wanted.
    fn publish(&self, page: String) -> anyhow::Result<()> {
        match &self.write {
            Some(path) => std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display())),
            None => {
                println!("{page}");
                Ok(())
            }
        }
    }
}

/// How a run is done, and with what.
#[derive(Debug)]
struct Run {
    programs: Programs,
    plain: Option<Plain>,
    scratch: Scratch,
    cores: Cores,
    repetitions: usize,
    measured: Duration,
    /// Calls in flight.
    in_flight: Vec<usize>,
    /// Reads of Redis in each repetition.
    reads: usize,
    /// Starts of an empty server.
    starts: usize,
    /// Keys of a full store.
    keys: usize,
    /// Keys that loads ask for.
    warm_keys: usize,
    /// Revocations in each repetition, at most.
    revocations: usize,
    /// How often a replica, or Redis, is killed.
    outages: usize,
    /// How long idle traffic is counted.
    idle: Duration,
}

impl Run {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let (programs, plain) = match &options.plain {
            None => (Programs::find()?, None),
            Some(target) => Programs::beside()?.with_plain(target).map(|(programs, plain)| (programs, Some(plain)))?,
        };
        let (scratch, cores) = (Scratch::new(&options.scratch)?, Cores::pick()?);
        let in_flight = options.in_flight.clone();
        let full = Self {
            programs,
            plain,
            scratch,
            cores,
            repetitions: options.repetitions.max(1),
            measured: Duration::from_secs_f64(options.seconds),
            in_flight,
            reads: 4_000,
            starts: 10,
            keys: 1_000_000,
            warm_keys: 1_000,
            revocations: 6_000,
            outages: 3,
            idle: Duration::from_secs(10),
        };
        Ok(if options.quick {
            Self {
                repetitions: 1,
                measured: Duration::from_millis(400),
                reads: 500,
                starts: 2,
                keys: 10_000,
                warm_keys: 50,
                outages: 1,
                idle: Duration::from_secs(2),
                ..full
            }
        } else {
            full
        })
    }

    /// Tells who waits what is going on.
    fn say(&self, what: &str) {
        eprintln!("bench: {what}");
    }
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Cli::parse().command {
        Command::Run(options) => {
            let run = Run::new(&options)?;
            machine::pin(run.cores.client)?;
            options.publish(runtime.block_on(measure(&run, &options.only))?)?;
        }
        Command::Profile(options) => {
            let run = Run::new(&options)?;
            machine::pin(run.cores.client)?;
            options.publish(runtime.block_on(profile::profile(&run))?)?;
        }
        Command::Train { keyclasp, scratch } => {
            let (programs, cores) = (Programs::beside()?.with(&keyclasp)?, Cores::pick()?);
            machine::pin(cores.client)?;
            runtime.block_on(train::train(&programs, &Scratch::new(&scratch)?, cores))?;
        }
        Command::Noop { address, len } => runtime.block_on(async {
            let incoming = TcpIncoming::bind(address)?.with_nodelay(Some(true));
            let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            let ended = async move { end.recv().await.unwrap_or_default() };
            // In order, so that it writes down where it went, should it be built for that.
            Server::builder().add_service(noop::service(len)).serve_with_incoming_shutdown(incoming, ended).await?;
            anyhow::Ok(())
        })?,
        Command::Allow { address, .. } => runtime.block_on(async {
            let incoming = TcpIncoming::bind(address)?.with_nodelay(Some(true));
            let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            let ended = async move { end.recv().await.unwrap_or_default() };
            Server::builder().add_service(authz::allow()).serve_with_incoming_shutdown(incoming, ended).await?;
            anyhow::Ok(())
        })?,
        Command::Constant { address, .. } => runtime.block_on(async {
            let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            let listener = tokio::net::TcpListener::bind(address).await?;
            tokio::select! {
                served = authz::constant(listener) => served,
                _ = end.recv() => anyhow::Ok(()),
            }
        })?,
        Command::Reads { url, ids, calls } => {
            let reads = runtime.block_on(Reads::here(&url, &ids, calls))?;
            println!("{} {} {} {}", reads.ping, reads.get, reads.fenced, reads.fenced_p99);
        }
        Command::Hit { mode, cores } => {
            let mode = Mode::ALL.into_iter().find(|one| one.name() == mode).context("no such mode")?;
            println!("{}", runtime.block_on(memory::hit(mode, &cores))?);
        }
        Command::Memory { keys, room } => println!("{}", runtime.block_on(Many::here(keys, room))?.text()),
        Command::FillEmbedded { dir, keys } => runtime.block_on(fill::embedded(&dir, keys))?,
        Command::FillRedis { url, keys } => println!("{}", runtime.block_on(fill::redis(&url, keys))?),
    }
    Ok(())
}

async fn measure(run: &Run, only: &[String]) -> anyhow::Result<String> {
    let wanted = |part: &str| only.is_empty() || only.iter().any(|one| one == part);
    let (core, keys) = (run.cores.server, run.warm_keys);
    let load_before = machine::load_average()?;
    let mut report = Report::default();

    run.say("starting the servers and making keys");
    let redis = Redis::start(&run.scratch, run.cores.client)?;
    let near = Home::init(&run.programs, &run.scratch, "embedded", None)?;
    let reading = Home::init(&run.programs, &run.scratch, "reading", None)?.with(NO_MEMORY)?;
    let far = Home::init(&run.programs, &run.scratch, "redis", Some(&redis.url))?;
    // Of its own: it is measured without anybody else's beats.
    let read_redis = Redis::start(&run.scratch, run.cores.client)?;
    let far_reading =
        Home::init(&run.programs, &run.scratch, "redis-reading", Some(&read_redis.url))?.with(NO_MEMORY)?;
    let (near_server, _) = near.serve(core)?;
    let (reading_server, _) = reading.serve(core)?;
    let (far_server, _) = far.serve(core)?;
    let (far_reading_server, _) = far_reading.serve(core)?;
    let near_material = near.prepare(keys).await?;
    let reading_material = reading.prepare(keys).await?;
    let far_material = far.prepare(keys).await?;
    let far_reading_material = far_reading.prepare(keys).await?;
    let (log, len) = (run.scratch.path("noop.log"), near_material.answer_len);
    let noop = reference(&run.programs.load, &["noop"], len, core, &log)?;
    let stock = reference(&run.programs.noop_stock, &[], len, core, &log)?;
    let beside = match &run.plain {
        Some(plain) => Some(Beside::start(plain, run).await?),
        None => None,
    };
    let mut contenders = vec![
        Contender { name: "no-op, same runtime", server: &noop, material: &near_material },
        Contender { name: "no-op, stock runtime", server: &stock, material: &near_material },
        Contender { name: IN_MEMORY, server: &near_server, material: &near_material },
        Contender { name: READING, server: &reading_server, material: &reading_material },
        Contender { name: LEASED, server: &far_server, material: &far_material },
        Contender { name: FAR_READING, server: &far_reading_server, material: &far_reading_material },
    ];
    let mut builds = vec![Build {
        name: "released",
        redis: &read_redis,
        server: &far_reading_server,
        material: &far_reading_material,
    }];
    if let Some(Beside { redis, server, material }) = &beside {
        contenders.push(Contender { name: "keyclasp, Redis, reading, plain build", server, material });
        builds.push(Build { name: "plain", redis, server, material });
    }

    if wanted("compare") {
        run.say("ValidateKey beside the references");
        for ratio in compare::compare(&contenders, run, &mut report).await? {
            judge(&ratio, &mut report);
        }
    }
    if wanted("serial") {
        compare::serial(&contenders, run, &mut report).await?;
    }
    if wanted("redis") {
        run.say("ValidateKey on Redis");
        remote::reads(&builds, run, &mut report).await?;
    }
    if wanted("flood") {
        run.say("forged keys");
        flood::flood(&near, &near_server, &near_material, run, &mut report).await?;
    }
    for server in [near_server, reading_server, far_server, far_reading_server, noop, stock] {
        server.process.stop()?;
    }
    read_redis.process.stop()?;
    if let Some(beside) = beside {
        beside.stop()?;
    }
    if wanted("memory") {
        run.say("the hit path alone, and many keys in memory");
        memory::memory(run, &mut report)?;
    }
    if wanted("envoy") {
        run.say("what proxies ask");
        proxies::proxies(run, &mut report).await?;
    }
    if wanted("cold") {
        let redis = Redis::start(&run.scratch, run.cores.client)?;
        let heavy = Home::init(&run.programs, &run.scratch, "heavy", Some(&redis.url))?.with(cold::HEAVY)?;
        let met = |name, home| cold::Met { name, home, at_once: 32, most: cold::MOST };
        let heavy = cold::Met { at_once: 4, ..met("keyclasp, Redis, heavy Argon2", heavy) };
        cold::cold(&[met(IN_MEMORY, near), met(LEASED, far), heavy], run, &mut report).await?;
    }
    redis.process.stop()?;
    if wanted("fleet") {
        fleet::fleet(run, &mut report).await?;
    }
    if wanted("outage") {
        outage::outage(run, &mut report).await?;
    }
    if wanted("footprint") {
        run.say("footprint: a million keys take a few minutes");
        footprint::footprint(run, &mut report)?;
    }
    let machine = format!(
        "{}; load average {load_before} before the run. Bytes of a call: {} in, {} out.",
        machine::describe()?,
        near_material.valid.first().map_or(0, Vec::len),
        len + 5,
    );
    report.page(&machine, &method(run))
}

/// Answered from memory, each key after its first time.
const IN_MEMORY: &str = "keyclasp, embedded";
/// Without memory for records.
const READING: &str = "keyclasp, embedded, reading";
/// Answered from memory under a lease, each key after its first time.
const LEASED: &str = "keyclasp, Redis";
/// Without memory for records.
const FAR_READING: &str = "keyclasp, Redis, reading";
/// What makes it read.
const NO_MEMORY: &str = "\n[cache]\nmemory_mib = 0\n";

/// What is aimed at beside the no-ops.
fn judge(ratio: &Ratio, report: &mut Report) {
    let Ratio { name, in_flight, throughput, p99, cpu, cpu_stock } = *ratio;
    let against = format!("against a no-op on the same runtime, {in_flight} in flight");
    match name {
        IN_MEMORY | LEASED => {
            let store = if name == IN_MEMORY { "embedded" } else { "Redis, with a lease" };
            let what = format!("ValidateKey from memory ({store}) {against}");
            report.target(&format!("{what}: throughput"), "≥ 0.95", format!("{throughput:.2}"), throughput >= 0.95);
            report.target(&format!("{what}: CPU a call"), "≤ 1.10", format!("{cpu:.2}"), cpu <= 1.10);
            report.target(&format!("{what}: p99"), "≤ 1.2", format!("{p99:.2}"), p99 <= 1.2);
            let against = format!("against the stock no-op, {in_flight} in flight");
            let what = format!("ValidateKey from memory ({store}) {against}: CPU a call");
            report.target(&what, "≤ 1.0", format!("{cpu_stock:.2}"), cpu_stock <= 1.0);
        }
        READING if in_flight > 1 => {
            let what = format!("ValidateKey that reads the embedded store {against}: throughput");
            report.target(&what, "≥ 0.7", format!("{throughput:.2} (CPU a call {cpu:.2} ×)"), throughput >= 0.7);
        }
        _ => {}
    }
}

fn method(run: &Run) -> String {
    format!(
        "\n## How it is measured

`make bench` builds keyclasp and the harness in `benches/`, and runs it; it needs two
cores, `redis-server`, `envoy` and `taskset`. `make bench BENCH_ARGS=--quick` shows whether it works.

- Builds: keyclasp is the program that is released (`make release`): built by a profile of its calls
  (`scripts/pgo.sh`), so that hot code lies together. What it is compared with has had the same: the harness,
  which holds the no-op on the same runtime, the reads of Redis alone and the client of all, is built by a profile
  of its own from the same training, in which each of them met the loads that it meets here. *Plain build* is
  keyclasp as `cargo build --release` makes it, for comparison; so is the no-op on the stock runtime.
- Closed loop: a call is made when one is answered. {} repetitions of {} s each, after a warm-up of a fifth of
  that; within each repetition the servers take turns, and another one begins each time.
- Each server is pinned to one core (so it has one worker), the client to the other one; the Redis of
  this run shares the client's core unless said otherwise. Everything is on the loopback device.
- Both references are tonic servers of the same service without authentication, limits or metrics. *Same
  runtime*: a tokio `current_thread` runtime and mimalloc, as keyclasp has. *Stock*: `#[tokio::main]` and the
  system's allocator. `TCP_NODELAY` is set on all. Answers are as long as keyclasp's.
- Each call of keyclasp carries the bearer token of a caller that may only validate, and one of 1,000 keys
  made by CreateKey before, each of another owner; it requires a scope that the key holds by implication.
  Argon2 ran once for each key before. On Redis it answers from memory under a lease, as the only replica.
  *Reading* is keyclasp without memory for records (`cache.memory_mib = 0`): it reads the store for each call.
- The client writes HTTP/2 frames itself and costs less than the servers, so that they are the bottleneck.
  It checks the outcome in each answer.
- CPU is what the kernel counted for all threads of the server (`/proc/PID/stat`), divided by the calls.
",
        run.repetitions,
        run.measured.as_secs_f64()
    )
}
