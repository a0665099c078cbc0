//! The state of the model: everything that can differ between two moments. What changes it is in
//! `model.rs` and the files named there.
//!
//! Time is relative: a timer counts down to 0 on each tick, so that the space is finite although time
//! has no end. All of it is plain copyable bytes: a search makes millions of these.

use crate::redis::{Behind, Redis};

/// An epoch, called by the number of its incarnation.
pub type Epoch = u8;

/// "None seen yet", and the number of an absent incarnation.
pub const NO_EPOCH: Epoch = 0;

/// Most writes that a replica may lag behind. A script that would exceed it waits.
pub const MAX_LAG: usize = 3;

/// What is left of a span of time, in ticks.
pub type Left = u8;

/// Everything.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub struct State {
    /// The servers.
    pub redis: Redis,
    /// keyclasp processes that answer from memory.
    pub replicas: [Replica; 2],
    /// ValidateKey calls that are under way. Kept sorted: they are interchangeable.
    pub calls: [Call; 2],
    /// The RevokeKey whose OK is the point of it all.
    pub revoke: Revoke,
    /// How often RevokeKey may still be sent.
    pub tries: u8,
    /// What the revoking process knows of epochs.
    pub revoker: Witness,
    /// Whoever else waits for the first replica and then deletes its row (rule 10).
    pub sweepers: [Sweeper; 2],
    /// A caller that reads a record and writes what it made of it, later.
    pub updater: Updater,
    /// The member that marks epochs as settled.
    pub marker: Witness,
    /// What the surroundings may still do.
    pub budget: Budget,
    /// A call that started after OK accepted the key: what must never be.
    pub violated: bool,
}

/// A keyclasp process.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub struct Replica {
    /// Where it is in its life.
    pub life: Life,
    /// The epoch it is in.
    pub epoch: Epoch,
    /// Those it has left, a bit each.
    pub left: u8,
    /// The position up to which it says that it has applied the log; also where it reads on.
    pub applied: u8,
    /// A log entry that has been read and is not yet wholly applied.
    pub fetched: Fetched,
    /// How long its usable lease runs.
    pub lease: Left,
    /// A lease that is not usable yet: how long it would run, and the tail that has to be applied.
    pub grant: Option<(Left, u8)>,
    /// Its heartbeat.
    pub beat: Beat,
    /// How many heartbeats it has sent. Counted only where the table's counter is.
    pub beats: u8,
    /// Whether the key is in its cache, as a valid one.
    pub cached: bool,
}

/// The life of a process.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Life {
    /// Serving.
    Serving,
    /// It has dropped its lease and not released its row yet.
    Leaving,
    /// It has released its row. (With its lease, where [`crate::Rule::DropThenRelease`] is removed.)
    Released,
}

/// A log entry in a process's hands.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Fetched {
    /// None.
    No,
    /// Read; of the key or of another one.
    Read {
        /// Whether it is the key's.
        ours: bool,
    },
    /// The cached record is dropped, its load detached; applied is to be advanced.
    Dropped,
    /// Applied is advanced and the record not dropped: only with [`crate::Rule::DropThenAdvance`] removed.
    AdvancedFirst,
}

/// A heartbeat.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Beat {
    /// None is under way.
    Idle,
    /// Sent; a lease from it would run this long from now.
    Sent(Left),
    /// Its script has run; the reply is under way, or waits for WAIT.
    Ran {
        /// How long a lease from it would run.
        left: Left,
        /// In which epoch.
        epoch: Epoch,
        /// The tail of the log at that moment.
        tail: u8,
        /// What WAIT still waits for.
        behind: Behind,
        /// Whether it was in the epoch that it expected, and so registered its process.
        registered: bool,
    },
}

/// A ValidateKey call.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// How far it is.
    pub step: Step,
    /// At which replica.
    pub replica: u8,
    /// It started after RevokeKey had answered OK, so it must not accept.
    pub after_ok: bool,
    /// The epoch of (a).
    pub epoch: Epoch,
    /// Whether the generation noted in (a) is still the replica's. (Generations are never compared
    /// otherwise, so this one bit stands for the number.)
    pub same_generation: bool,
    /// Whether its load is still attached: nothing has invalidated what it may bring.
    pub attached: bool,
}

/// The steps of rule 9.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// No call.
    Idle,
    /// Of (a), only the lease is checked: only with [`crate::Rule::GenerationNotedWithLease`] removed.
    LeaseSeen,
    /// (a) is done: the lease was held, the generation is noted.
    Checked,
    /// (b) found nothing: the fenced read is under way.
    Loading,
    /// The read was answered; the reply is under way. Whether it brings a valid key.
    Loaded(bool),
    /// (b) joined the load of another call.
    Joined,
    /// (b) came before (a) and found the key: only with [`crate::Rule::LeaseBeforeLookup`] removed.
    HitUnchecked,
}

/// RevokeKey.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Revoke {
    /// Not under way.
    Idle,
    /// RevokeKeys: the first of two commits has run, for the key or for another one.
    FirstOfTwo {
        /// In which epoch.
        epoch: Epoch,
        /// Whether it was for the key; the second one is for the other.
        ours: bool,
        /// The members that its reply named.
        awaited: u8,
    },
    /// The script has run (rule 4).
    Waiting {
        /// In which epoch.
        epoch: Epoch,
        /// At which position.
        position: u8,
        /// What WAIT still waits for.
        behind: Behind,
        /// Whether it is not on disk yet, where it has to be.
        off_disk: bool,
        /// What is left of L since.
        left: Left,
        /// Members that have neither acknowledged nor gone, a bit each.
        awaited: u8,
    },
    /// Answered OK.
    Ok,
}

/// What a process knows about the age of an epoch: it has seen it, and L since then is over or not.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub struct Witness {
    /// The newest epoch it has seen.
    pub epoch: Epoch,
    /// What is left of L since it first saw that.
    pub left: Left,
}

/// Another revoke, or a heartbeat that sweeps, which waits for the first replica (rule 10).
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sweeper {
    /// There is none in this scenario, or it has ended.
    Done,
    /// It may come.
    Idle,
    /// It has seen the row, in this epoch, with this counter, and waits.
    Waiting(Epoch, u8, Left),
}

/// A caller that changes the record: widens it, resumes it.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Updater {
    /// There is none in this scenario, or it has ended.
    Done,
    /// It may come.
    Idle,
    /// It has read a valid record of this version, in this epoch.
    HasRead(u8, Epoch),
}

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub struct Budget {
    /// The replica is promoted; the old primary goes on answering.
    pub failovers: u8,
    /// The primary restarts in place, with what is on its disk.
    pub crashes: u8,
    /// A primary changes its replid and nothing else, as when its first replica is attached.
    pub renames: u8,
    /// FLUSHALL.
    pub flushes: u8,
    /// The key is created: once at most, since ids are random, and so before a FLUSHALL or after it. If
    /// it may be, it is not there at first.
    pub creates: u8,
    /// Commits for other keys, which nobody waits for.
    pub others: u8,
    /// Commits that leave the key valid, which nobody waits for.
    pub touches: u8,
    /// The oldest log entry goes.
    pub trims: u8,
    /// Heartbeats, where they are counted; [`Budget::UNLIMITED`] otherwise.
    pub beats: u8,
    /// The first replica's SIGTERM.
    pub terms: u8,
}

impl Budget {
    /// No bound, and no counting.
    pub const UNLIMITED: u8 = u8::MAX;

    /// Nothing happens but what the protocol does itself.
    pub const QUIET: Budget = Budget {
        failovers: 0,
        crashes: 0,
        renames: 0,
        flushes: 0,
        creates: 0,
        others: 0,
        touches: 0,
        trims: 0,
        beats: Budget::UNLIMITED,
        terms: 0,
    };
}

impl Replica {
    /// A process that has just been started, or has long been in `epoch` with nothing in memory.
    pub fn new(epoch: Epoch) -> Replica {
        Replica {
            life: Life::Serving,
            epoch,
            left: 0,
            applied: 0,
            fetched: Fetched::No,
            lease: 0,
            grant: None,
            beat: Beat::Idle,
            beats: 0,
            cached: false,
        }
    }
}

impl Call {
    /// No call.
    pub const IDLE: Call = Call {
        step: Step::Idle,
        replica: 0,
        after_ok: false,
        epoch: NO_EPOCH,
        same_generation: false,
        attached: false,
    };

    /// Whether it is the one that loads.
    pub fn is_loading(&self) -> bool {
        matches!(self.step, Step::Loading | Step::Loaded(_))
    }
}
