//! `kill -9` at random moments: what the embedded store answered OK is there afterwards, whole. A kill leaves what
//! the kernel was given, so that it was synced to disk first is looked for in the system calls.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use keyclasp::clock::{Clock, SystemClock, Timestamp};
use keyclasp::key::KeyId;
use keyclasp::random::{OsEntropy, bytes};
use keyclasp::store::conformance::sample::{self, Holder, holder};
use keyclasp::store::embedded::{EmbeddedConfig, EmbeddedStore};
use keyclasp::store::{AuditFilter, AuditQuery, Commit, Outcome, Store};

use serde_json::json;

use crate::support::TempDir;
use crate::support::json::call;
use crate::support::server::Keyclasp;

/// Where the child writes, and which keys it begins with.
const DIR: &str = "KEYCLASP_IT_KILL_DIR";
const FIRST: &str = "KEYCLASP_IT_KILL_FIRST";
/// How many kills; 20 where it is not set.
const KILLS: &str = "KEYCLASP_TORTURE_KILLS";
/// Tasks of the child that commit at once.
const WRITERS: u32 = 8;

fn owner(writer: u32) -> Holder {
    holder("acme", &format!("writer-{writer}"))
}

fn open(dir: &Path) -> EmbeddedStore {
    EmbeddedConfig::new(dir).open(&OsEntropy).unwrap()
}

#[test]
fn a_kill_loses_nothing_that_was_answered() {
    let kills = std::env::var(KILLS).map_or(20, |kills| kills.parse().unwrap());
    let dir = TempDir::new();
    let now = SystemClock::new().now();
    // Pairs that were answered OK: the two records of one commit.
    let mut answered = BTreeSet::new();
    for round in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store_embedded_kill::writes_until_it_is_killed", "--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .env(FIRST, (round * 1_000_000).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let [after, _] = bytes::<2>(&OsEntropy).unwrap().map(usize::from);
        let mut lines = String::new();
        while lines.matches("+OK ").count() <= after {
            assert_ne!(output.read_line(&mut lines).unwrap(), 0, "the writer ended by itself: {lines}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        output.read_to_string(&mut lines).unwrap();
        let before = answered.len();
        answered.extend(lines.split_inclusive('\n').filter_map(pair));
        assert!(answered.len() > before + after, "round {round}: {lines}");
        check(dir.path(), &answered, now);
    }
}

#[test]
fn what_is_answered_was_synced_before() {
    let dir = TempDir::new();
    let trace = dir.path().join("trace");
    // With -D, strace is no parent of the server: the server's process id is the one that was started.
    let calls = "--trace=fsync,fdatasync,write,writev,sendto,sendmsg";
    let strace = ["strace", "-D", "-f", "-qq", "-s", "4096", "-o", trace.to_str().unwrap(), calls];
    let mut server = Keyclasp::set_up().under(&strace).start();
    let create = json!({"realm": "acme", "owner": {"kind": "OWNER_KIND_USER", "id": "u-1"}});
    for _ in 0..5 {
        let (status, made) = call(server.listen(), &server.token(), "KeyService/CreateKey", &create);
        assert_eq!(status, 200, "{made}");
    }
    assert_eq!(server.terminate().code(), Some(0));
    let trace = std::fs::read_to_string(&trace).unwrap();
    let (mut answers, mut syncs) = (0, 0);
    for line in trace.lines() {
        if line.contains("sync") && line.ends_with("= 0") {
            syncs += 1;
        } else if line.contains("apiKey") {
            assert!(syncs > 0, "answer {answers} went out before a sync had ended:\n{trace}");
            (answers, syncs) = (answers + 1, 0);
        }
    }
    assert_eq!(answers, 5, "{trace}");
}

/// What a whole line of the child says was answered OK.
fn pair(line: &str) -> Option<(KeyId, KeyId)> {
    let (one, other) = line.strip_suffix('\n')?.split_once("+OK ")?.1.split_once(' ')?;
    Some((one.parse().unwrap(), other.parse().unwrap()))
}

fn check(dir: &Path, answered: &BTreeSet<(KeyId, KeyId)>, now: Timestamp) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let store = open(dir);
        for id in answered.iter().flat_map(|(one, other)| [one, other]) {
            assert!(store.get(*id, now).await.unwrap().is_some(), "{id} was answered and is lost");
        }
        // Of what was not answered, whole commits alone: as many records in the indexes, the log and
        // the audit log as in the table.
        let (mut records, mut cursor) = (0, None);
        loop {
            let page = store.scan(cursor, now).await.unwrap();
            records += page.records.len();
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let mut listed = 0;
        for writer in 0..WRITERS {
            let mut query = owner(writer).list(1_000);
            loop {
                let page = store.list(&query, now).await.unwrap();
                listed += page.records.len();
                query.after = page.next;
                if query.after.is_none() {
                    break;
                }
            }
        }
        let filter = AuditFilter::default();
        let mut query = AuditQuery { shard: 0, after: None, newest_first: false, filter, limit: 1_000 };
        let mut events = 0;
        loop {
            let page = store.audit(&query).await.unwrap();
            events += page.events.len();
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        let tail = usize::try_from(store.log(0, None, 1).await.unwrap().tail).unwrap();
        assert_eq!((records % 2, listed, events, tail), (0, records, records, records));
    });
}

#[tokio::test]
#[ignore = "run by a_kill_loses_nothing_that_was_answered, which kills it"]
async fn writes_until_it_is_killed() {
    let dir = std::env::var_os(DIR).unwrap();
    let first: u32 = std::env::var(FIRST).unwrap().parse().unwrap();
    let (store, now) = (Arc::new(open(Path::new(&dir))), SystemClock::new().now());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for n in (first..first + 100_000).step_by(2) {
                let pair = [n, n + 1].map(|n| owner(writer).record(n, now));
                let events = pair.iter().map(|record| sample::event(record, keyclasp::key::Action::Created)).collect();
                let commit = Commit { events, ..sample::commit(pair.iter().map(sample::creation).collect()) };
                assert!(matches!(store.commit(&commit, now).await, Ok(Outcome::Done(_))));
                println!("+OK {} {}", pair[0].id, pair[1].id);
            }
        });
    }
    writers.join_all().await;
}
