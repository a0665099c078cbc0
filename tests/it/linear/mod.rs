//! Whether the promise about revocation holds on real processes: three replicas of keyclasp over real
//! Redis servers, clients that record every call with its start and end, a nemesis, and a checker.
//!
//! `KEYCLASP_LINEAR_SEED` repeats the choices of a run that failed (not its schedule, which is the
//! operating system's), `KEYCLASP_LINEAR_SECONDS` makes it longer.

mod calls;
mod checker;
mod clients;
mod cluster;
mod dice;
mod history;
mod lossy;
mod nemesis;
mod report;
mod wall_clock;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyclasp::random::{OsEntropy, bytes};

use clients::{Client, Keys};
use cluster::{Nodes, REPLICAS, Topology};
use dice::Dice;
use history::Kind;
use report::Report;

/// Clients of each replica that validate.
const VALIDATORS: usize = 2;
/// Clients that change keys.
const CHANGERS: usize = 3;
/// Violations that are shown in full.
const SHOWN: usize = 5;

/// One run at a time: a machine that is busy with two shows less of each.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn standalone() {
    run(Topology::Standalone);
}

#[test]
fn primary_and_replica() {
    run(Topology::PrimaryAndReplica);
}

fn run(topology: Topology) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = setting("KEYCLASP_LINEAR_SEED").unwrap_or_else(|| u64::from_be_bytes(bytes(&OsEntropy).unwrap()));
    let length = Duration::from_secs(setting("KEYCLASP_LINEAR_SECONDS").unwrap_or(30));
    let title = format!("{topology:?}, KEYCLASP_LINEAR_SEED={seed}");
    println!("{title}: {length:?}");

    let mut nodes = Nodes::start(topology);
    let (shared, mut replicas) = cluster::start(topology, &nodes);
    let shared = Arc::new(shared);
    let keys = Arc::new(Keys::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Client::new(&shared, &keys).make_keys());
    let client = || Client::new(&shared, &keys);
    let mut clients = Vec::new();
    for number in 0..REPLICAS * VALIDATORS {
        let dice = Dice::of(seed, &format!("validator {number}"));
        clients.push(runtime.spawn(client().validate_all_the_time(number % REPLICAS, dice)));
    }
    for number in 0..CHANGERS {
        clients.push(runtime.spawn(client().change_all_the_time(Dice::of(seed, &format!("changer {number}")))));
    }

    std::thread::scope(|scope| {
        let (first, others) = replicas.split_at_mut(1);
        for (number, some) in [first, others].into_iter().enumerate() {
            let dice = Dice::of(seed, &format!("trouble {number}"));
            let shared = &shared;
            scope.spawn(move || stopping(shared, || nemesis::trouble_replicas(shared, some, dice)));
        }
        let dice = Dice::of(seed, "trouble of redis");
        scope.spawn(|| stopping(&shared, || nemesis::trouble_redis(&shared, &mut nodes, dice)));
        while shared.now() < length && !shared.stopped() {
            std::thread::sleep(Duration::from_millis(20));
        }
        shared.stop(true);
    });
    runtime.block_on(async {
        for client in clients {
            client.await.unwrap();
        }
    });
    let length = shared.now();
    for replica in &mut replicas {
        replica.process().wait_ready();
    }
    runtime.block_on(client().settle());

    let history = shared.take_history();
    let violations = checker::check(&history);
    let report = Report::of(title, length, &history, &violations);
    println!("{report}");
    for violation in violations.iter().take(SHOWN) {
        println!("\n{}", violation.excerpt(&history));
    }
    assert!(violations.is_empty(), "{} violations; {report}", violations.len());
    // A run in which nothing went on would show nothing. A machine that is busy with something else does less.
    for (kind, outcome, least) in [
        (Kind::Validate, "valid", 200),
        (Kind::Validate, "suspended", 10),
        (Kind::Validate, "denied", 10),
        (Kind::Validate, "revoked", 20),
        (Kind::Suspend, "ok", 3),
        (Kind::Resume, "ok", 3),
        (Kind::Narrow, "ok", 3),
        (Kind::Revoke, "ok", 5),
        (Kind::RevokeKeys, "ok", 3),
    ] {
        assert!(report.count(kind, outcome) >= least, "too few: {kind:?} {outcome}; {report}");
    }
}

/// Runs a part of the nemesis; a failure of one ends the run.
fn stopping(shared: &cluster::Shared, part: impl FnOnce()) {
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(part));
    shared.stop(true);
    if let Err(failure) = failed {
        std::panic::resume_unwind(failure);
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
