//! What only the inside can show: a writer that dies, a file that fails.

use std::path::PathBuf;

use super::*;
use crate::random::OsEntropy;
use crate::store::conformance::sample;

/// A directory of this test alone, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("keyclasp-embedded-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Self(dir)
    }

    fn open(&self) -> EmbeddedStore {
        EmbeddedConfig::new(&self.0).open(&OsEntropy).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn pepper() -> PepperId {
    PepperId::parse("p1").unwrap()
}

#[tokio::test]
async fn a_dead_writer_is_noticed_and_answered_for() {
    let scratch = Scratch::new("dead-writer");
    let store = scratch.open();
    store.add_pepper_check(&pepper(), [1; 32]).await.unwrap();
    let died = store.writer_died();
    store.jobs.as_ref().unwrap().try_send(Job { task: Task::Die, _permit: None }).unwrap();
    died.await;
    let answer = store.remove_pepper_check(&pepper()).await;
    assert!(matches!(&answer, Err(StoreError::Unavailable(text)) if text.contains("restart")), "{answer:?}");
    assert!(store.health(Timestamp::default()).await.is_err());
    assert_eq!(store.pepper_checks().await.unwrap(), [(pepper(), [1; 32])], "reads go on");
}

#[tokio::test]
async fn a_file_that_failed_is_opened_again() {
    let scratch = Scratch::new("mend");
    let store = scratch.open();
    store.add_pepper_check(&pepper(), [1; 32]).await.unwrap();
    // As after a failure at which it could not be opened again.
    drop(store.shared.file.write().unwrap().database.take());
    assert!(matches!(store.pepper_checks().await, Err(StoreError::Unavailable(_))));
    // The read told the writer, which takes its jobs in order: before this one it mended.
    assert_eq!(store.add_pepper_check(&pepper(), [2; 32]).await.unwrap(), [1; 32]);
    assert_eq!(store.pepper_checks().await.unwrap(), [(pepper(), [1; 32])]);
    assert_eq!(store.shared.file.read().unwrap().generation, 2);
    // A complaint about an earlier time changes nothing.
    store.jobs.as_ref().unwrap().try_send(Job { task: Task::Mend(1), _permit: None }).unwrap();
    store.remove_pepper_check(&pepper()).await.unwrap();
    assert_eq!(store.shared.file.read().unwrap().generation, 2);
}

/// Counts what it is told, and looks at the record then.
#[derive(Debug, Default)]
struct Told {
    store: std::sync::OnceLock<std::sync::Weak<EmbeddedStore>>,
    /// The version of each record that changed, as it was read when that was told.
    changed: std::sync::Mutex<Vec<Option<u64>>>,
    unknown: std::sync::atomic::AtomicUsize,
}

impl Observer for Told {
    fn changed(&self, id: KeyId) {
        let store = self.store.get().and_then(std::sync::Weak::upgrade).unwrap();
        let read = futures_util::FutureExt::now_or_never(store.get(id, Timestamp::from_millis(1))).unwrap().unwrap();
        self.changed.lock().unwrap().push(read.map(|found| found.record.version));
    }

    fn unknown(&self) {
        self.unknown.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[tokio::test]
async fn an_observer_is_told_of_a_change_that_can_be_read_before_it_is_answered() {
    let scratch = Scratch::new("observed");
    let (store, told) = (Arc::new(scratch.open()), Arc::new(Told::default()));
    told.store.set(Arc::downgrade(&store)).unwrap();
    assert!(store.observe(told.clone()));
    assert!(!store.observe(told.clone()), "there is one observer");
    let (ada, now) = (sample::holder("acme", "ada"), Timestamp::from_millis(1));
    let record = ada.record(1, now);
    let changed = sample::renamed(&record, "new");
    for commit in [sample::create(&record), sample::update(&changed)] {
        assert!(matches!(store.commit(&commit, now).await, Ok(Outcome::Done(_))));
    }
    // What changes nothing is not told.
    assert_eq!(store.commit(&sample::create(&record), now).await, Ok(Outcome::Conflict));
    assert_eq!(*told.changed.lock().unwrap(), [Some(1), Some(2)]);
    assert_eq!(told.unknown.load(std::sync::atomic::Ordering::SeqCst), 0);
    // While the file is closed, another process may write to it.
    store.jobs.as_ref().unwrap().try_send(Job { task: Task::Mend(1), _permit: None }).unwrap();
    store.remove_pepper_check(&pepper()).await.unwrap();
    assert_eq!(store.shared.file.read().unwrap().generation, 2);
    assert_eq!(told.unknown.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_full_queue_sheds_at_once() {
    let scratch = Scratch::new("shed");
    let store = scratch.open();
    let all = Arc::clone(&store.room).acquire_many_owned(u32::try_from(MAX_WAITING).unwrap()).await.unwrap();
    let answer = store.remove_pepper_check(&pepper()).await;
    assert!(matches!(&answer, Err(StoreError::Unavailable(text)) if text.contains("too many")), "{answer:?}");
    drop(all);
    store.remove_pepper_check(&pepper()).await.unwrap();
    // What was done gives its share back, just behind its answer.
    let all = store.room.acquire_many(u32::try_from(MAX_WAITING).unwrap());
    drop(tokio::time::timeout(std::time::Duration::from_secs(10), all).await.unwrap().unwrap());
}
