//! What happened in a run: every call with its start, end and answer, and every fault. Times are
//! those of one monotonic clock that all clients share. Nothing here judges.

use std::fmt;
use std::time::Duration;

use tonic::Code;

/// A run.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Every call, in no particular order.
    pub(super) ops: Vec<Op>,
    /// Every fault.
    pub(super) faults: Vec<Fault>,
}

/// A fault, from before it was made until after it was healed.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// What it was done to.
    pub(super) target: String,
    pub(super) start: Duration,
    pub(super) end: Duration,
    pub(super) effect: Effect,
}

/// What a fault may do to what was answered OK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// Records that were there before it, or were made during it, may be gone.
    Loses,
    /// What is made at the new primary is not at the old one.
    Forks,
}

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Op {
    /// Number of the key. None for RevokeKeys, which is about all keys of the owner.
    pub(super) key: Option<u32>,
    /// Number of the owner of the key, or of the keys.
    pub(super) owner: u32,
    pub(super) kind: Kind,
    pub(super) replica: usize,
    /// Before it was sent.
    pub(super) start: Duration,
    /// After it was answered, or given up.
    pub(super) end: Duration,
    pub(super) answer: Answer,
}

/// Which call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Create,
    /// The key that a RotateKey made. Part of that call.
    Rotated,
    Validate,
    Suspend,
    Resume,
    /// UpdateKey that allows an address only from which nobody asks.
    Narrow,
    /// UpdateKey that allows all addresses.
    Widen,
    /// RotateKey without grace, as it ends the old key.
    Rotate,
    Revoke,
    RevokeKeys,
    /// GetKey, after everything was healed and nothing ran any more.
    FinalGet,
    /// ValidateKey, likewise.
    FinalValidate,
}

/// What it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was done, and the key is so, in this version.
    Is(State, u64),
    /// It was done: so many keys were revoked, and so many had ended before.
    Swept(u64, u64),
    /// There is no such key.
    Missing,
    /// Nothing was done, because the key is revoked.
    Ended,
    /// An error: whether it was done, or will yet be, nobody knows.
    Unknown(Code),
    /// What must never be answered.
    Wrong(String),
}

/// What a key is: the first of these that it is, from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Active,
    /// Not allowed from the address from which it is presented.
    Denied,
    /// Also where it is denied.
    Suspended,
    Revoked,
}

impl Kind {
    /// Whether it changes a key.
    pub(super) fn changes(self) -> bool {
        !matches!(self, Self::Validate | Self::FinalGet | Self::FinalValidate)
    }

    /// Whether it makes a key.
    pub(super) fn makes(self) -> bool {
        matches!(self, Self::Create | Self::Rotated)
    }

    /// Whether it ends a key for ever.
    pub(super) fn ends(self) -> bool {
        matches!(self, Self::Revoke | Self::RevokeKeys | Self::Rotate)
    }

    /// Whether its OK promises that something is accepted no more.
    pub(super) fn takes_away(self) -> bool {
        self.ends() || self.undone_by().is_some()
    }

    /// What gives back what it takes away, if anything does.
    pub(super) fn undone_by(self) -> Option<Self> {
        match self {
            Self::Suspend => Some(Self::Resume),
            Self::Narrow => Some(Self::Widen),
            _ => None,
        }
    }

    /// Whether it writes a new version even where the key is so already.
    pub(super) fn always_writes(self) -> bool {
        !matches!(self, Self::Resume | Self::Narrow | Self::Widen)
    }

    /// Whether it is what makes a key be so.
    pub(super) fn causes(self, state: State) -> bool {
        match state {
            State::Active => true,
            State::Denied => self == Self::Narrow,
            State::Suspended => self == Self::Suspend,
            State::Revoked => self.ends(),
        }
    }

    /// Whether a key may be so once it is done.
    pub(super) fn leaves(self, state: State) -> bool {
        match self {
            Self::Create => state == State::Active,
            Self::Resume => matches!(state, State::Active | State::Denied),
            Self::Suspend => state == State::Suspended,
            Self::Narrow => matches!(state, State::Denied | State::Suspended),
            Self::Widen => matches!(state, State::Active | State::Suspended),
            Self::Rotated => state != State::Revoked,
            Self::Rotate | Self::Revoke | Self::RevokeKeys => state == State::Revoked,
            Self::Validate | Self::FinalGet | Self::FinalValidate => true,
        }
    }
}

impl Op {
    /// The state and version that it was answered with.
    pub(super) fn seen(&self) -> Option<(State, u64)> {
        match self.answer {
            Answer::Is(state, version) => Some((state, version)),
            _ => None,
        }
    }

    /// Whether it was answered OK.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.answer, Answer::Is(..) | Answer::Swept(..))
    }

    /// Whether it was answered before `later` began.
    pub(super) fn before(&self, later: &Self) -> bool {
        self.end < later.start
    }

    /// The latest moment at which it may take effect, for one that changes the key; none if it has
    /// no effect at all. A call whose outcome is unknown may take effect at any time to come.
    pub(super) fn effective_until(&self) -> Option<Duration> {
        match self.answer {
            Answer::Is(..) | Answer::Swept(..) => Some(self.end),
            Answer::Unknown(_) | Answer::Wrong(_) => Some(Duration::MAX),
            Answer::Missing | Answer::Ended => None,
        }
    }

    /// Its answer in one word, for counting.
    pub(super) fn outcome(&self) -> String {
        match (&self.answer, self.kind) {
            (Answer::Is(State::Active, _), Kind::Validate | Kind::FinalValidate) => "valid".to_owned(),
            (Answer::Is(state, _), Kind::Validate | Kind::FinalValidate | Kind::FinalGet) => {
                format!("{state:?}").to_lowercase()
            }
            (Answer::Is(..) | Answer::Swept(..), _) => "ok".to_owned(),
            (Answer::Missing, _) => "missing".to_owned(),
            (Answer::Ended, _) => "refused".to_owned(),
            (Answer::Unknown(code), _) => format!("{code:?}"),
            (Answer::Wrong(_), _) => "WRONG".to_owned(),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.start.as_secs_f64(), self.end.as_secs_f64());
        write!(f, "{start:11.6} – {end:11.6}  owner {} ", self.owner)?;
        self.key.iter().try_for_each(|key| write!(f, "key {key} "))?;
        write!(f, "replica {} ", self.replica)?;
        write!(f, "{:?}: {:?}", self.kind, self.answer)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.start.as_secs_f64(), self.end.as_secs_f64());
        write!(f, "{start:11.6} – {end:11.6}  FAULT {}: {}", self.name, self.target)
    }
}
