//! What only the inside can show: a writer that dies, a file that fails.

use std::path::PathBuf;

use super::*;
use crate::random::OsEntropy;

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
