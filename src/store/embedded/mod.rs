//! The embedded store: one file (redb) in a directory, for one process.
//!
//! A commit is on disk before it is answered. Those that wait at the same time share one
//! transaction and its sync. Reads run on the caller's thread: they take about a microsecond. The
//! file is locked while it is open; what has gone is removed by [`EmbeddedStore::sweep`], which the
//! composition root calls from time to time. There is one shard.

mod apply;
mod file;
mod read;
mod reserve;
mod sweep;
mod tables;
mod writer;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use redb::{ReadTransaction, ReadableDatabase};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::apply::{Failure, Prepared};
use self::reserve::Reserve;
use self::sweep::Bounds;
use self::tables::store_error;
use self::writer::{Job, QUEUE, Reply, Shared, Task, Writer};
use super::{
    AuditPage, AuditQuery, Commit, Durability, Epoch, Found, Health, Identity, ListPage, ListQuery, LogCursor, LogPage,
    Observer, Outcome, ScanCursor, ScanPage, Store, StoreError,
};
use crate::clock::Timestamp;
use crate::key::codec::IdempotencyEntry;
use crate::key::{KeyId, PepperId};
use crate::random::Entropy;

pub use sweep::Swept;

/// Most writes and events, of all waiting commits together, that wait for the writer. What a
/// commit may hold is bounded, and so is the memory behind this.
const MAX_WAITING: usize = 8_192;

/// Where an embedded store lies, and what it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// Its directory; made, private, where it does not exist.
    pub dir: PathBuf,
    /// Most audit events to keep; the oldest go.
    pub audit_max_events: u64,
    /// Most log entries to keep; the oldest go.
    pub log_max_entries: u64,
    /// Memory for pages of the file.
    pub cache_bytes: usize,
}

impl EmbeddedConfig {
    /// In `dir`, with the defaults: a million audit events, 100,000 log entries, 64 MiB of pages.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), audit_max_events: 1_000_000, log_max_entries: 100_000, cache_bytes: 64 << 20 }
    }

    /// Whether a store was made there before.
    #[must_use]
    pub fn is_made(&self) -> bool {
        file::path(&self.dir).exists()
    }

    /// Opens the store, or makes it where there is none.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with the remedy when another process has it open, when it may not
    /// be read, or when it is no store of a format that this program knows.
    pub fn open(self, entropy: &dyn Entropy) -> Result<EmbeddedStore, StoreError> {
        let (database, epoch) = file::open(&self.dir, self.cache_bytes, entropy)?;
        let shared = Arc::new(Shared::new(database));
        let (jobs, receiver) = mpsc::channel(QUEUE);
        let ended = CancellationToken::new();
        let writer = Writer {
            shared: Arc::clone(&shared),
            dir: self.dir.clone(),
            cache_bytes: self.cache_bytes,
            epoch,
            jobs: receiver,
            reserve: Reserve::of(&self.dir),
        };
        let thread = writer.start(ended.clone()).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(EmbeddedStore {
            config: self,
            shared,
            epoch,
            jobs: Some(jobs),
            room: Arc::new(Semaphore::new(MAX_WAITING)),
            ended,
            thread: Some(thread),
        })
    }
}

/// An open store. Dropping it writes what waits, and closes the file.
pub struct EmbeddedStore {
    config: EmbeddedConfig,
    shared: Arc<Shared>,
    epoch: Epoch,
    /// None only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    room: Arc<Semaphore>,
    ended: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Removes what has gone by `now`, and what of log and audit log is beyond its bound: up to
    /// `limit` things, in one transaction.
    ///
    /// # Errors
    /// As a commit.
    pub async fn sweep(&self, now: Timestamp, limit: usize) -> Result<Swept, StoreError> {
        let bounds = Bounds { limit, log: self.config.log_max_entries, audit: self.config.audit_max_events };
        self.ask(1, |reply| Task::Sweep(bounds, now, reply)).await
    }

    /// Resolves when the writer has ended: from then on each commit is
    /// [`StoreError::Unavailable`], so whoever serves this store should end too.
    pub fn writer_died(&self) -> impl Future<Output = ()> + Send + 'static {
        self.ended.clone().cancelled_owned()
    }

    /// Puts raw bytes where the record of `id` lies, for the conformance suite.
    ///
    /// # Errors
    /// As a commit.
    #[cfg(feature = "conformance")]
    pub async fn plant(&self, id: KeyId, bytes: &[u8]) -> Result<(), StoreError> {
        self.ask(1, |reply| Task::Plant(id, bytes.to_vec(), reply)).await
    }

    /// Has the writer do something, and waits for the answer.
    async fn ask<T>(&self, weight: u32, task: impl FnOnce(Reply<T>) -> Task) -> Result<T, StoreError> {
        let unavailable = |text: &str| StoreError::Unavailable(text.to_owned());
        let ended = || unavailable("its writer has ended; restart keyclasp");
        let busy = || unavailable("too many commits wait for the disk; try again");
        let permit = Arc::clone(&self.room).try_acquire_many_owned(weight).map_err(|_| busy())?;
        let (reply, answer) = oneshot::channel();
        let job = Job { task: task(reply), _permit: Some(permit) };
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => busy(),
            mpsc::error::TrySendError::Closed(_) => ended(),
        })?;
        answer.await.map_err(|_| ended())?
    }

    /// Reads in one read transaction, on this thread.
    fn read<T>(&self, read: impl FnOnce(&ReadTransaction) -> Result<T, Failure>) -> Result<T, StoreError> {
        let file = self.shared.file.read().unwrap_or_else(PoisonError::into_inner);
        let failure = match &file.database {
            None => StoreError::Unavailable("its file cannot be opened again".to_owned()),
            Some(open) => match open.begin_read().map_err(Failure::from).and_then(|transaction| read(&transaction)) {
                Ok(answer) => return Ok(answer),
                Err(Failure::One(error)) => return Err(error),
                Err(Failure::File(error)) => store_error(&error),
            },
        };
        // Tells the writer. If the queue is full, a later read does.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.try_send(Job { task: Task::Mend(file.generation), _permit: None });
        }
        Err(failure)
    }

    fn check_shard(&self, shard: u16) -> Result<(), StoreError> {
        if shard == 0 { Ok(()) } else { Err(StoreError::Misuse(format!("there is no shard {shard}"))) }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, id: KeyId, now: Timestamp) -> Result<Option<Found>, StoreError> {
        let records = self.shared.records.read().unwrap_or_else(PoisonError::into_inner);
        match records.as_ref().map(|records| read::record(records, self.epoch, id, now)) {
            Some(Ok(record)) => return Ok(record),
            Some(Err(Failure::One(error))) => return Err(error),
            // The file failed: reading as everything else is read tells the writer.
            Some(Err(Failure::File(_))) | None => {}
        }
        drop(records);
        self.read(|transaction| read::record(&transaction.open_table(tables::RECORDS)?, self.epoch, id, now))
    }

    async fn idempotency(
        &self,
        _bucket: u8,
        slot: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<IdempotencyEntry>, StoreError> {
        self.read(|transaction| {
            let entry = apply::read_slot(&transaction.open_table(tables::IDEMPOTENCY)?, &slot)?;
            Ok(entry.filter(|entry| now < entry.expires_at))
        })
    }

    async fn commit(&self, commit: &Commit, now: Timestamp) -> Result<Outcome, StoreError> {
        commit.check(self.shards())?;
        let prepared = Box::new(Prepared::new(commit, now));
        self.ask(prepared.weight(), |reply| Task::Commit(prepared, reply)).await
    }

    async fn list(&self, query: &ListQuery, now: Timestamp) -> Result<ListPage, StoreError> {
        self.read(|transaction| read::list(transaction, self.epoch, query, now))
    }

    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        self.check_shard(query.shard)?;
        self.read(|transaction| read::audit(transaction, query))
    }

    async fn log(&self, shard: u16, after: Option<LogCursor>, limit: usize) -> Result<LogPage, StoreError> {
        self.check_shard(shard)?;
        self.read(|transaction| read::log(transaction, self.epoch, after, limit))
    }

    async fn scan(&self, cursor: Option<ScanCursor>, now: Timestamp) -> Result<ScanPage, StoreError> {
        self.read(|transaction| read::scan(transaction, cursor.as_ref(), now))
    }

    async fn pepper_checks(&self) -> Result<Vec<(PepperId, [u8; 32])>, StoreError> {
        self.read(read::pepper_checks)
    }

    async fn add_pepper_check(&self, id: &PepperId, check: [u8; 32]) -> Result<[u8; 32], StoreError> {
        self.ask(1, |reply| Task::AddPepper(id.clone(), check, reply)).await
    }

    async fn remove_pepper_check(&self, id: &PepperId) -> Result<(), StoreError> {
        self.ask(1, |reply| Task::RemovePepper(id.clone(), reply)).await
    }

    async fn health(&self, _now: Timestamp) -> Result<Health, StoreError> {
        if self.ended.is_cancelled() {
            return Err(StoreError::Unavailable("its writer has ended; restart keyclasp".to_owned()));
        }
        self.read(read::pepper_checks)?;
        Ok(Health {
            role: String::new(),
            version: "redb 4".to_owned(),
            epochs: vec![self.epoch],
            durability: Durability::Durable("each commit is on disk before it is answered".to_owned()),
            clock: None,
            evicts: false,
            fullness: None,
            replication: None,
        })
    }

    fn observe(&self, observer: Arc<dyn Observer>) -> bool {
        self.shared.observer.set(observer).is_ok()
    }

    fn shards(&self) -> u16 {
        1
    }

    fn identity(&self) -> Identity {
        Identity { kind: "embedded", location: self.config.dir.display().to_string() }
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        // The writer ends when nobody can give it work; then the file is closed, and unlocked.
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // It says by `writer_died` how it went.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
