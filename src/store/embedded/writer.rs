//! The writer: one thread that writes, taking all commits that wait into one transaction. Each is
//! checked and applied on its own; what they share is the sync to disk.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;

use redb::{Database, ReadableDatabase, ReadableTable};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::apply::{Failure, Prepared};
use super::file;
use super::read::Records;
use super::reserve::Reserve;
use super::sweep::{Bounds, Swept, sweep};
use super::tables::{RECORDS, Tables, store_error};
use crate::clock::Timestamp;
use crate::key::{KeyId, PepperId};
use crate::store::{Effect, Epoch, Observer, Outcome, StoreError};

/// Most jobs that wait for the writer.
pub(super) const QUEUE: usize = 1_024;
/// Most jobs of one transaction.
const BATCH: usize = 256;

/// What readers and the writer share.
pub(super) struct Shared {
    /// The records as of the last commit, open for reading: beginning a read transaction and
    /// opening a table would be half of what a get costs. None: read as everything else is read.
    /// Dropped before the file is closed.
    pub(super) records: RwLock<Option<Records>>,
    /// The file.
    pub(super) file: RwLock<Open>,
    /// Is told what changes.
    pub(super) observer: OnceLock<Arc<dyn Observer>>,
}

/// The open file.
pub(super) struct Open {
    /// None while it cannot be opened again after a failure.
    pub(super) database: Option<Database>,
    /// How often it was opened.
    pub(super) generation: u64,
}

impl Shared {
    /// Of a file that was just opened.
    pub(super) fn new(database: Database) -> Self {
        let file = RwLock::new(Open { database: Some(database), generation: 1 });
        let shared = Self { records: RwLock::new(None), file, observer: OnceLock::new() };
        shared.show(shared.file.read().unwrap_or_else(PoisonError::into_inner).database.as_ref());
        shared
    }

    /// Has gets see the records as they are now in `database`.
    fn show(&self, database: Option<&Database>) {
        let records = database.and_then(|database| database.begin_read().ok()?.open_table(RECORDS).ok());
        *self.records.write().unwrap_or_else(PoisonError::into_inner) = records;
    }
}

/// One thing to write, and who waits for it.
pub(super) struct Job {
    pub(super) task: Task,
    /// Its share of the queue, given back when it is done.
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Task {
    Commit(Box<Prepared>, Reply<Outcome>),
    AddPepper(PepperId, [u8; 32], Reply<[u8; 32]>),
    RemovePepper(PepperId, Reply<()>),
    Sweep(Bounds, Timestamp, Reply<Swept>),
    /// A reader met a failure of the file while it was open for this time: open it again, unless
    /// that was done since.
    Mend(u64),
    /// Raw bytes in a record's place.
    #[cfg(feature = "conformance")]
    Plant(KeyId, Vec<u8>, Reply<()>),
    #[cfg(test)]
    Die,
}

impl Task {
    /// The records that it may change.
    fn changes(&self) -> impl Iterator<Item = KeyId> {
        let (commit, planted) = match self {
            Self::Commit(prepared, _) => (Some(prepared.ids()), None),
            #[cfg(feature = "conformance")]
            Self::Plant(id, ..) => (None, Some(*id)),
            // What a sweep removes is past its time, which whoever keeps it knows.
            _ => (None, None),
        };
        commit.into_iter().flatten().chain(planted)
    }
}

/// The writer's thread and what it needs.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) dir: PathBuf,
    pub(super) cache_bytes: usize,
    pub(super) epoch: Epoch,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) reserve: Reserve,
}

impl Writer {
    /// Starts the thread. `ended` is cancelled when it ends, however it does.
    pub(super) fn start(mut self, ended: CancellationToken) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("keyclasp-store".to_owned()).spawn(move || {
            let _ended = ended.drop_guard();
            self.reserve.hold();
            while let Some(first) = self.jobs.blocking_recv() {
                let mut batch = vec![first];
                while batch.len() < BATCH
                    && let Ok(job) = self.jobs.try_recv()
                {
                    batch.push(job);
                }
                self.write(batch);
            }
        })
    }

    /// Does all of `batch`, and answers each. On a full disk, what takes rights away or makes room is
    /// tried again with the reserve given up; what adds waits until the reserve is held again.
    fn write(&self, mut batch: Vec<Job>) {
        if self.reserve.is_spent() && !self.reserve.hold() {
            let full = StoreError::Full("what is left is kept for revocations; free some space".to_owned());
            batch.extract_if(.., |job| job.adds()).for_each(|job| job.fail(full.clone()));
        }
        let mut failed = self.write_once(batch);
        let full = |(job, error): &(Job, StoreError)| !job.adds() && matches!(error, StoreError::Full(_));
        if failed.iter().any(full) && self.reserve.give_up() {
            let again = failed.extract_if(.., |failed| full(failed)).map(|(job, _)| job).collect();
            failed.extend(self.write_once(again));
        }
        failed.into_iter().for_each(|(job, error)| job.fail(error));
    }

    /// Does all of `batch` in one transaction, and answers each; or none, and says why.
    fn write_once(&self, batch: Vec<Job>) -> Vec<(Job, StoreError)> {
        let fail = |batch: Vec<Job>, error: &StoreError| batch.into_iter().map(|job| (job, error.clone())).collect();
        #[cfg(test)]
        assert!(!batch.iter().any(|job| matches!(job.task, Task::Die)), "the writer dies, as a test asked for");
        let broken = batch.iter().filter_map(|job| match job.task {
            Task::Mend(generation) => Some(generation),
            _ => None,
        });
        if let Err(error) = self.mend(broken.max()) {
            return fail(batch, &error);
        }
        let file = self.shared.file.read().unwrap_or_else(PoisonError::into_inner);
        let generation = file.generation;
        let Some(database) = &file.database else {
            return fail(batch, &StoreError::Unavailable("its file is closed".to_owned()));
        };
        let done = self.transact(database, &batch);
        drop(file);
        match done {
            Ok(answers) => {
                batch.into_iter().zip(answers).for_each(|(job, answer)| job.answer(answer));
                Vec::new()
            }
            Err(error) => {
                // redb serves no more once its file has failed; closing and opening it again is
                // what brings the reads back. The next batch tries the writes again; should this
                // here fail as well, it says so.
                let error = store_error(&error);
                let _ = self.mend(Some(generation));
                fail(batch, &error)
            }
        }
    }

    fn transact(&self, database: &Database, batch: &[Job]) -> Result<Vec<Answer>, redb::Error> {
        let transaction = file::begin_write(database)?;
        let mut answers = Vec::with_capacity(batch.len());
        {
            let mut tables = Tables::open(&transaction)?;
            for job in batch {
                match self.apply(&mut tables, &job.task) {
                    Ok(answer) => answers.push(answer),
                    Err(Failure::One(error)) => answers.push(Answer::Refused(error)),
                    Err(Failure::File(error)) => return Err(error),
                }
            }
        }
        if answers.iter().any(Answer::wrote) {
            transaction.commit()?;
            // Before anyone is told: who was answered reads what was written, and so does who reads
            // because of what the observer was told.
            self.shared.show(Some(database));
            if let Some(observer) = self.shared.observer.get() {
                batch.iter().flat_map(|job| job.task.changes()).for_each(|id| observer.changed(id));
            }
        } else {
            transaction.abort()?;
        }
        Ok(answers)
    }

    fn apply(&self, tables: &mut Tables<'_>, task: &Task) -> Result<Answer, Failure> {
        Ok(match task {
            Task::Commit(prepared, _) => Answer::Outcome(prepared.apply(tables, self.epoch)?),
            Task::AddPepper(id, check, _) => {
                let known = tables.peppers.get(id.as_str())?.map(|known| *known.value());
                if known.is_none() {
                    tables.peppers.insert(id.as_str(), check)?;
                }
                Answer::Pepper(known.unwrap_or(*check), known.is_none())
            }
            Task::RemovePepper(id, _) => Answer::Changed(tables.peppers.remove(id.as_str())?.is_some()),
            Task::Sweep(bounds, now, _) => Answer::Swept(sweep(tables, *bounds, *now)?),
            Task::Mend(_) => Answer::Nothing,
            #[cfg(feature = "conformance")]
            Task::Plant(id, bytes, _) => {
                tables.records.insert(id.as_bytes(), bytes.as_slice())?;
                Answer::Changed(true)
            }
            #[cfg(test)]
            Task::Die => Answer::Nothing,
        })
    }

    /// Opens the file again if it is closed, or if it failed since it was opened for the `broken`th
    /// time.
    fn mend(&self, broken: Option<u64>) -> Result<(), StoreError> {
        let is_broken = |open: &Open| open.database.is_none() || broken == Some(open.generation);
        if !is_broken(&self.shared.file.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        // Closed before it is opened: it is locked while it is open.
        self.shared.show(None);
        let mut open = self.shared.file.write().unwrap_or_else(PoisonError::into_inner);
        // Some of what failed may be there now; and while it is closed, another process may write to
        // it. Said with the lock held: who reads because of it waits for what comes of the opening.
        if let Some(observer) = self.shared.observer.get() {
            observer.unknown();
        }
        drop(open.database.take());
        open.database = Some(file::reopen(&self.dir, self.cache_bytes)?);
        open.generation += 1;
        self.shared.show(open.database.as_ref());
        Ok(())
    }
}

/// What a task came to.
enum Answer {
    Outcome(Outcome),
    /// The check that counts, and whether it is new.
    Pepper([u8; 32], bool),
    /// Whether there was something to change.
    Changed(bool),
    Swept(Swept),
    Refused(StoreError),
    Nothing,
}

impl Answer {
    /// Whether it changed a table.
    fn wrote(&self) -> bool {
        match self {
            Self::Outcome(outcome) => matches!(outcome, Outcome::Done(_)),
            Self::Pepper(_, new) => *new,
            Self::Changed(removed) => *removed,
            Self::Swept(swept) => *swept != Swept { more: swept.more, ..Swept::default() },
            Self::Refused(_) | Self::Nothing => false,
        }
    }
}

impl Job {
    /// Whether a full disk need not take it.
    fn adds(&self) -> bool {
        match &self.task {
            Task::Commit(prepared, _) => prepared.effect == Effect::Adds,
            Task::AddPepper(..) => true,
            _ => false,
        }
    }

    /// Whoever does not wait any more is not told.
    fn answer(self, answer: Answer) {
        match (self.task, answer) {
            (task, Answer::Refused(error)) => Self { task, _permit: None }.fail(error),
            (Task::Commit(_, reply), Answer::Outcome(outcome)) => drop(reply.send(Ok(outcome))),
            (Task::AddPepper(_, _, reply), Answer::Pepper(check, _)) => drop(reply.send(Ok(check))),
            (Task::RemovePepper(_, reply), Answer::Changed(_)) => drop(reply.send(Ok(()))),
            #[cfg(feature = "conformance")]
            (Task::Plant(_, _, reply), Answer::Changed(_)) => drop(reply.send(Ok(()))),
            (Task::Sweep(_, _, reply), Answer::Swept(swept)) => drop(reply.send(Ok(swept))),
            // No reply: whoever waits sees its end of the channel close.
            _ => {}
        }
    }

    fn fail(self, error: StoreError) {
        match self.task {
            Task::Commit(_, reply) => drop(reply.send(Err(error))),
            Task::AddPepper(_, _, reply) => drop(reply.send(Err(error))),
            Task::RemovePepper(_, reply) => drop(reply.send(Err(error))),
            Task::Sweep(_, _, reply) => drop(reply.send(Err(error))),
            #[cfg(feature = "conformance")]
            Task::Plant(_, _, reply) => drop(reply.send(Err(error))),
            Task::Mend(_) => {}
            #[cfg(test)]
            Task::Die => {}
        }
    }
}
