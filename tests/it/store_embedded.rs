//! The embedded store: the conformance suite, and what only a file can show: lock, reopening,
//! permissions, sweeping.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyclasp::clock::{Clock, SystemClock, Timestamp};
use keyclasp::key::{KeyId, PepperId};
use keyclasp::random::OsEntropy;
use keyclasp::store::conformance::Harness;
use keyclasp::store::conformance::sample::{self, DAY, SECOND, holder};
use keyclasp::store::embedded::{EmbeddedConfig, EmbeddedStore, Swept};
use keyclasp::store::{
    AuditFilter, AuditQuery, Commit, Effect, Expect, LogCursor, Outcome, OwnerGuard, Store, StoreError, Write,
};

use crate::support::TempDir;

struct Embedded {
    store: Arc<EmbeddedStore>,
    now: Timestamp,
    dir: TempDir,
}

impl Embedded {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(adjust: impl FnOnce(&mut EmbeddedConfig)) -> Self {
        let dir = TempDir::new();
        let mut config = EmbeddedConfig::new(dir.path());
        adjust(&mut config);
        let store = Arc::new(config.open(&OsEntropy).unwrap());
        Self { store, now: SystemClock::new().now(), dir }
    }

    /// Closes the store, and opens what it left behind.
    fn reopened(self) -> Self {
        let Self { store, now, dir } = self;
        drop(Arc::into_inner(store).expect("nobody else holds the store"));
        let store = Arc::new(EmbeddedConfig::new(dir.path()).open(&OsEntropy).unwrap());
        Self { store, now, dir }
    }

    async fn done(&self, commit: &Commit, now: Timestamp) -> LogCursor {
        match self.store.commit(commit, now).await.unwrap() {
            Outcome::Done(done) => done.at,
            other => panic!("{other:?}"),
        }
    }

    async fn events(&self) -> usize {
        let filter = AuditFilter::default();
        let query = AuditQuery { shard: 0, after: None, newest_first: false, filter, limit: 1_000 };
        self.store.audit(&query).await.unwrap().events.len()
    }
}

#[async_trait]
impl Harness for Embedded {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn now(&self) -> Timestamp {
        self.now
    }

    async fn plant(&self, id: KeyId, bytes: &[u8]) {
        self.store.plant(id, bytes).await.unwrap();
    }
}

mod bare {
    async fn make() -> super::Embedded {
        super::Embedded::new()
    }

    keyclasp::store_conformance!(make);
}

/// The same store behind the decorator.
mod guarded {
    use keyclasp::store::guarded::Guarded;

    use super::{Arc, Embedded, Harness, KeyId, Store, SystemClock, Timestamp, async_trait};

    struct Decorated(Embedded);

    #[async_trait]
    impl Harness for Decorated {
        fn store(&self) -> Arc<dyn Store> {
            Arc::new(Guarded::new(self.0.store(), Arc::new(SystemClock::new())))
        }

        fn now(&self) -> Timestamp {
            self.0.now
        }

        async fn plant(&self, id: KeyId, bytes: &[u8]) {
            self.0.plant(id, bytes).await;
        }
    }

    async fn make() -> Decorated {
        Decorated(Embedded::new())
    }

    keyclasp::store_conformance!(make);
}

#[tokio::test]
async fn reopening_finds_everything() {
    let embedded = Embedded::new();
    let (ada, now) = (holder("acme", "ada"), embedded.now);
    let pepper = PepperId::parse("p1").unwrap();
    let records: Vec<_> = (0..4).map(|n| ada.record(n, now)).collect();
    embedded.done(&sample::create(&records[1]), now).await;
    let first = Commit { idempotency: Some(sample::first_try(5, records[0].id, now)), ..sample::create(&records[0]) };
    let cursor = embedded.done(&first, now).await;
    embedded.store.add_pepper_check(&pepper, [7; 32]).await.unwrap();
    let log = embedded.store.log(0, None, 100).await.unwrap();
    let health = embedded.store.health(now).await.unwrap();

    let again = embedded.reopened();
    assert_eq!(again.store.log(0, None, 100).await.unwrap(), log);
    assert_eq!(again.store.health(now).await.unwrap(), health);
    assert_eq!(again.store.pepper_checks().await.unwrap(), [(pepper, [7; 32])]);
    assert_eq!(
        again.store.get(records[0].id, now).await.unwrap().as_ref().map(|found| &*found.record),
        Some(&records[0])
    );
    let listed = again.store.list(&ada.list(100), now).await.unwrap().records;
    assert_eq!(listed.len(), 2);
    assert_eq!(again.events().await, 2);
    let slot = sample::first_try(5, records[3].id, now);
    let replay = Commit { idempotency: Some(slot), ..sample::create(&records[3]) };
    assert!(
        matches!(again.store.commit(&replay, now).await.unwrap(), Outcome::Replay(entry) if entry.key_id == records[0].id)
    );
    let full = Commit { guard: Some(ada.guard(2)), ..sample::create(&records[3]) };
    assert_eq!(again.store.commit(&full, now).await.unwrap(), Outcome::OwnerFull);
    let next = again.done(&sample::create(&records[3]), now).await;
    assert_eq!(next, LogCursor { position: cursor.position + 1, ..cursor });
}

#[tokio::test]
async fn each_file_has_an_epoch_of_its_own() {
    let (one, other) = (Embedded::new(), Embedded::new());
    let epochs = [&one, &other].map(|it| it.store.clone());
    let epoch = |at: usize| {
        let store = epochs[at].clone();
        let now = one.now;
        async move { store.health(now).await.unwrap().epochs }
    };
    assert_ne!(epoch(0).await, epoch(1).await);
}

#[test]
fn a_second_opening_is_refused_by_name() {
    let embedded = Embedded::new();
    let refused = EmbeddedConfig::new(embedded.dir.path()).open(&OsEntropy).unwrap_err();
    let StoreError::Refused(text) = refused else { panic!("{refused:?}") };
    assert!(text.contains(embedded.dir.path().to_str().unwrap()), "{text}");
    assert!(text.contains("another process") && text.contains("stop it"), "{text}");
    let dir = embedded.dir;
    drop(embedded.store);
    EmbeddedConfig::new(dir.path()).open(&OsEntropy).unwrap();
}

#[test]
fn what_it_makes_is_private() {
    let dir = TempDir::new();
    let inner = dir.path().join("a/b");
    drop(EmbeddedConfig::new(&inner).open(&OsEntropy).unwrap());
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    let files: Vec<_> = std::fs::read_dir(&inner).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.contains(&inner.join("keyclasp.redb")), "{files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");
    // A file that was copied with wider permissions is private again once it is used.
    std::fs::set_permissions(inner.join("keyclasp.redb"), std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(EmbeddedConfig::new(&inner).open(&OsEntropy).unwrap());
    assert_eq!(mode(&inner.join("keyclasp.redb")), 0o600);
}

#[test]
fn what_is_no_store_is_refused_and_kept() {
    let dir = TempDir::new();
    let path = dir.path().join("keyclasp.redb");
    let refused = || match EmbeddedConfig::new(dir.path()).open(&OsEntropy) {
        Err(StoreError::Refused(text)) => text,
        other => panic!("{other:?}"),
    };
    std::fs::write(&path, "a file of somebody else's").unwrap();
    assert!(refused().contains("restore it from a backup"));
    assert_eq!(std::fs::read(&path).unwrap(), b"a file of somebody else's");

    // A redb file of something else.
    std::fs::remove_file(&path).unwrap();
    let table = |name: &'static str| redb::TableDefinition::<&str, &[u8]>::new(name);
    let write = |name: &'static str, key: &str, value: &[u8]| {
        let database = redb::Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(table(name)).unwrap().insert(key, value).unwrap();
        transaction.commit().unwrap();
    };
    write("other", "a", b"b");
    refused();
    // A store of a format to come.
    std::fs::remove_file(&path).unwrap();
    drop(EmbeddedConfig::new(dir.path()).open(&OsEntropy).unwrap());
    write("meta", "format", &2_u32.to_be_bytes());
    let text = refused();
    assert!(text.contains("format 2") && text.contains("newer"), "{text}");
}

/// What lies in the tables of a closed store, by their names.
fn table_sizes(dir: &std::path::Path) -> Vec<(String, u64)> {
    use redb::{ReadableDatabase as _, ReadableTableMetadata as _, TableHandle as _};
    let database = redb::Database::open(dir.join("keyclasp.redb")).unwrap();
    let transaction = database.begin_read().unwrap();
    let mut sizes: Vec<_> = transaction
        .list_tables()
        .unwrap()
        .map(|table| (table.name().to_owned(), transaction.open_untyped_table(table).unwrap().len().unwrap()))
        .collect();
    sizes.sort();
    sizes
}

#[tokio::test]
async fn the_sweeper_removes_what_has_gone_and_nothing_else() {
    let embedded = Embedded::new();
    let (ada, now) = (holder("acme", "ada"), embedded.now);
    let end = now.after(SECOND);
    for n in 0..30 {
        let record = ada.record(n, now);
        let gone_at = (n % 3 != 0).then_some(end);
        let write = Write { gone_at, ..sample::creation(&record) };
        let mut slot = sample::first_try(u8::try_from(n).unwrap(), record.id, now);
        slot.entry.expires_at = if n < 12 { end } else { now.after(DAY) };
        embedded.done(&Commit { idempotency: Some(slot), ..sample::commit(vec![write]) }, now).await;
    }
    let before = Timestamp::from_millis(end.as_millis() - 1);
    assert_eq!(embedded.store.sweep(before, 100).await.unwrap(), Swept::default());
    let mut total = Swept::default();
    for _ in 0..100 {
        let swept = embedded.store.sweep(end, 7).await.unwrap();
        assert!(swept.records + swept.idempotency + swept.log + swept.audit <= 7);
        total.records += swept.records;
        total.idempotency += swept.idempotency;
        if !swept.more {
            break;
        }
    }
    assert_eq!((total.records, total.idempotency), (20, 12));
    assert_eq!(embedded.store.sweep(end, 7).await.unwrap(), Swept::default());
    // By a `now` before their end, what was swept would be there: so this is what lies in the file.
    assert_eq!(embedded.store.list(&ada.list(100), before).await.unwrap().records.len(), 10);

    let Embedded { store, dir, .. } = embedded;
    drop(store);
    let sizes = table_sizes(dir.path());
    let expected = [
        ("audit", 0),
        ("by_owner", 10),
        ("by_realm", 10),
        ("ending", 0),
        ("idempotency", 18),
        ("idempotency_ending", 18),
        ("living", 10),
        ("log", 30),
        ("meta", 2),
        ("peppers", 0),
        ("records", 10),
    ];
    assert_eq!(sizes, expected.map(|(name, size)| (name.to_owned(), size)));
}

#[tokio::test]
async fn a_key_is_in_each_index_at_most_once_through_its_life() {
    let embedded = Embedded::new();
    let (ada, now) = (holder("acme", "ada"), embedded.now);
    let mut record = ada.record(1, now);
    embedded.done(&sample::create(&record), now).await;
    for ttl in 1..20 {
        record = sample::renamed(&record, "again");
        record.expires_at = (ttl % 3 != 0).then_some(now.after(ttl * SECOND));
        embedded.done(&sample::update(&record), now).await;
    }
    let revoked = sample::revoked(&record, now);
    let write = Write { gone_at: Some(now.after(DAY)), ..sample::change(&revoked) };
    embedded.done(&sample::commit(vec![write]), now).await;
    let Embedded { store, dir, .. } = embedded;
    drop(store);
    let sizes = table_sizes(dir.path());
    for (name, expected) in [("by_owner", 1), ("by_realm", 1), ("ending", 1), ("living", 0), ("records", 1)] {
        assert!(sizes.contains(&(name.to_owned(), expected)), "{name}: {sizes:?}");
    }
}

#[tokio::test]
async fn log_and_audit_are_kept_to_their_bounds() {
    let embedded = Embedded::with(|config| {
        config.log_max_entries = 10;
        config.audit_max_events = 5;
    });
    let (ada, now) = (holder("acme", "ada"), embedded.now);
    let mut cursors = Vec::new();
    for n in 0..25 {
        cursors.push(embedded.done(&sample::create(&ada.record(n, now)), now).await);
    }
    let swept = embedded.store.sweep(now, 1_000).await.unwrap();
    assert_eq!(swept, Swept { log: 15, audit: 20, ..Swept::default() });
    assert_eq!(embedded.events().await, 5);
    // Positions 16 to 25 are there: whoever read up to 15 goes on, whoever did not has a gap.
    let page = embedded.store.log(0, Some(cursors[14]), 100).await.unwrap();
    assert_eq!((page.gap, page.entries.len(), page.tail), (false, 10, 25));
    for behind in [Some(cursors[13]), None] {
        let page = embedded.store.log(0, behind, 100).await.unwrap();
        assert_eq!((page.gap, page.entries.len(), page.tail), (true, 0, 25));
    }
    let next = embedded.done(&sample::create(&ada.record(100, now)), now).await;
    assert_eq!(next.position, 26);
}

#[tokio::test]
async fn the_tail_survives_a_log_that_is_swept_bare() {
    let embedded = Embedded::with(|config| config.log_max_entries = 0);
    let (ada, now) = (holder("acme", "ada"), embedded.now);
    for n in 0..3 {
        embedded.done(&sample::create(&ada.record(n, now)), now).await;
    }
    embedded.store.sweep(now, 100).await.unwrap();
    assert_eq!(embedded.store.log(0, None, 1).await.unwrap().tail, 3);
    assert_eq!(embedded.done(&sample::create(&ada.record(9, now)), now).await.position, 4);
}

/// A disk that is full, for real: the test runs itself on a small one, in a namespace of its own.
/// Where namespaces are forbidden it cannot, and says so.
#[test]
fn a_full_disk_takes_revocations_and_is_served_on() {
    let allowed = Command::new("unshare").args(["-Urm", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("KEYCLASP_CI").is_none(), "CI has to allow user namespaces, or this is not run");
        println!("not run: this machine does not allow user namespaces");
        return;
    }
    let dir = TempDir::new();
    let script = r#"mount -t tmpfs -o size=24m none "$KEYCLASP_IT_SMALL_DISK" && exec "$0" "$@""#;
    let output = Command::new("unshare")
        .args(["-Urm", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store_embedded::on_a_small_disk", "--ignored", "--nocapture"])
        .env("KEYCLASP_IT_SMALL_DISK", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
#[ignore = "run by a_full_disk_takes_revocations_and_is_served_on, on a disk of 24 MiB"]
async fn on_a_small_disk() {
    let dir = std::path::PathBuf::from(std::env::var_os("KEYCLASP_IT_SMALL_DISK").unwrap());
    let store = EmbeddedConfig { cache_bytes: 1 << 20, ..EmbeddedConfig::new(dir.join("store")) };
    let store = store.open(&OsEntropy).unwrap();
    let (ada, now) = (holder("acme", "ada"), SystemClock::new().now());
    let add = async |first: u32, count: u32| {
        let writes = (first..first + count).map(|n| sample::creation(&ada.record(n, now))).collect();
        store.commit(&sample::commit(writes), now).await
    };
    let takes_away = async |n: u32| {
        let record = store.get(ada.id(n), now).await.unwrap().unwrap();
        let commit = sample::update(&sample::revoked(&record.record, now));
        store.commit(&Commit { effect: Effect::TakesAway, ..commit }, now).await
    };
    assert!(matches!(add(0, 256).await, Ok(Outcome::Done(_))));
    // Somebody else fills the disk, and what room the file has left is used up.
    let filler = dir.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    let mut added = 256;
    let full = loop {
        match add(added, 16).await {
            Ok(Outcome::Done(_)) => added += 16,
            other => break other,
        }
        assert!(added < 100_000, "a disk of 24 MiB that does not fill");
    };
    assert!(matches!(&full, Err(StoreError::Full(text)) if text.contains("free some space")), "{full:?}");
    assert_eq!(store.get(ada.id(added), now).await, Ok(None), "nothing of the commit that failed");
    assert!(store.get(ada.id(added - 1), now).await.unwrap().is_some(), "reads go on");

    for n in 0..100 {
        let answer = takes_away(n).await;
        assert!(matches!(answer, Ok(Outcome::Done(_))), "revocation {n}: {answer:?}");
        let answer = add(added, 1).await;
        assert!(matches!(answer, Err(StoreError::Full(_))), "what is kept for revocations went to {answer:?}");
    }
    assert!(store.get(ada.id(99), now).await.unwrap().unwrap().record.revocation.is_some());

    drop(file);
    std::fs::remove_file(&filler).unwrap();
    let answer = add(added, 16).await;
    assert!(matches!(answer, Ok(Outcome::Done(_))), "{answer:?}");
    drop(store);
    let store = EmbeddedConfig::new(dir.join("store")).open(&OsEntropy).unwrap();
    assert!(store.get(ada.id(added + 15), now).await.unwrap().is_some());
    assert_eq!(store.log(0, None, 1).await.unwrap().tail, u64::from(added) + 16 + 100);
}

/// Many callers at once, some of whose commits cannot be: each gets its own answer, though they
/// share transactions.
#[tokio::test]
async fn one_that_conflicts_does_not_spoil_the_others() {
    let embedded = Embedded::new();
    let (ada, now) = (holder("acme", "ada"), embedded.now);
    embedded.done(&sample::create(&ada.record(0, now)), now).await;
    embedded.store.plant(ada.id(1), &[9]).await.unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..200_u32 {
        let store = embedded.store.clone();
        let commit = match n % 4 {
            0 => sample::create(&ada.record(0, now)),
            1 => sample::create(&ada.record(1, now)),
            2 => Commit { guard: Some(OwnerGuard { max: 0, ..ada.guard(0) }), ..sample::create(&ada.record(2, now)) },
            _ => sample::create(&ada.record(n, now)),
        };
        callers.spawn(async move { (n, store.commit(&commit, now).await) });
    }
    while let Some(finished) = callers.join_next().await {
        let (n, answer) = finished.unwrap();
        match n % 4 {
            0 => assert_eq!(answer, Ok(Outcome::Conflict)),
            1 => assert!(matches!(answer, Err(StoreError::Unreadable { .. })), "{answer:?}"),
            2 => assert_eq!(answer, Ok(Outcome::OwnerFull)),
            _ => assert!(matches!(answer, Ok(Outcome::Done(_))), "{answer:?}"),
        }
    }
    assert_eq!(embedded.store.log(0, None, 1_000).await.unwrap().tail, 51);
    assert_eq!(embedded.store.list(&ada.list(1_000), now).await.unwrap().records.len(), 51);
    let stale = Write { expects: Expect::Version(9), ..sample::creation(&ada.record(0, now)) };
    let later = now.after(Duration::from_millis(1));
    assert_eq!(embedded.store.commit(&sample::commit(vec![stale]), later).await, Ok(Outcome::Conflict));
}
