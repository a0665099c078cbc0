//! The actions, when each is possible and who carries it out; the property; and the reduction of states
//! that cannot differ in what may still go wrong.

use stateright::{Model, Property};

use crate::redis::{Record, Redis, Write};
use crate::rules::Rule;
use crate::scenario::Scenario;
use crate::state::{Beat, Budget, Call, NO_EPOCH, Replica, Revoke, State, Sweeper, Updater, Witness};

/// The protocol in one scenario, whole or with one rule removed.
#[derive(Clone, Copy, Debug)]
pub struct Fence {
    /// What is assumed.
    pub scenario: Scenario,
    /// The rule that is removed.
    pub without: Option<Rule>,
}

/// One step of somebody. Numbers are: node, replica, call, sweeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A tick of every clock.
    Tick,
    /// A tick of every clock but the first replica's, which was suspended.
    TickWhileSuspended,
    /// The Redis replica takes in one write.
    Replicate,
    /// The disk of a node has what its memory has.
    Fsync(u8),
    /// A Redis replica becomes a primary.
    Failover(u8),
    /// A node becomes the replica of another one and copies it.
    Resync(u8, u8),
    /// A primary restarts in place.
    Crash(u8),
    /// A primary changes its replid.
    Rename(u8),
    /// FLUSHALL on a node.
    Flush(u8),
    /// The key is created on a node that has none.
    Create(u8),
    /// A commit for another key.
    OtherKey(u8),
    /// A commit that leaves the key valid.
    Touch(u8),
    /// The oldest log entry of a node goes.
    Trim(u8),

    /// A replica sends a heartbeat.
    BeatSend(u8),
    /// The heartbeat of a replica runs on a node.
    BeatRun(u8, u8),
    /// Its reply arrives.
    BeatReply(u8),
    /// A replica reads the log on a node.
    LogRead(u8, u8),
    /// It drops the record and detaches the load.
    LogDrop(u8),
    /// It advances applied.
    LogAdvance(u8),
    /// It acknowledges on a node.
    Ack(u8, u8),
    /// SIGTERM, after the last answer: a replica drops its lease.
    Leave(u8),
    /// It releases its row on a node.
    Release(u8, u8),

    /// A call starts at a replica; (a).
    Start(u8, u8),
    /// The generation is noted, where that is not part of (a).
    Note(u8),
    /// (b).
    Lookup(u8),
    /// (a) after (b), where that is removed.
    CheckLate(u8),
    /// (c): the read runs on a node.
    Read(u8, u8),
    /// The read is refused.
    ReadRefused(u8),
    /// The reply arrives; (d), and the answer.
    Answer(u8),

    /// The revoking process sees a node's epoch.
    RevokerSees(u8),
    /// RevokeKeys' first commit runs on a node, for the key or for another one.
    RevokeFirst(u8, bool),
    /// RevokeKey's script, or RevokeKeys' second commit, runs on a node.
    RevokeRun(u8),
    /// It looks for acknowledgements on a node.
    RevokePoll(u8),
    /// On the embedded store: the record is dropped, its load detached.
    InvalidateInPlace,
    /// It answers "unknown".
    RevokeUnknown,
    /// It answers OK.
    RevokeOk,
    /// A sweeper sees the first replica's row on a node.
    SweeperSees(u8, u8),
    /// It has waited L and deletes the row on a node.
    SweeperDeletes(u8, u8),
    /// A row is deleted for its age by the server's clock.
    SweepByWallClock(u8),
    /// The updater reads.
    UpdaterReads(u8),
    /// The updater commits.
    UpdaterCommits(u8),
    /// The marker sees a node's epoch.
    MarkerSees(u8),
    /// The marker marks a node's epoch as settled.
    MarkerMarks(u8),
}

impl Fence {
    /// Whether a rule holds in this search.
    pub fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// The nodes of the scenario.
    pub fn nodes(&self) -> std::ops::Range<u8> {
        0..1 + u8::from(self.scenario.redis_replica)
    }

    /// The keyclasp processes of the scenario.
    pub fn replicas(&self) -> std::ops::Range<u8> {
        0..self.scenario.replicas
    }

    /// Under which id a process beats and acknowledges (rule 2).
    pub fn identity(&self, replica: u8) -> u8 {
        if self.keeps(Rule::OwnIdentity) { replica } else { 0 }
    }
}

impl Model for Fence {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let scenario = &self.scenario;
        let first = Replica::new(1);
        let second = Replica::new(if scenario.joiner { NO_EPOCH } else { 1 });
        let sweeper = |number| if number < scenario.sweepers { Sweeper::Idle } else { Sweeper::Done };
        let record = if scenario.budget.creates > 0 { Record::Absent } else { Record::Live };
        vec![State {
            redis: Redis::new(scenario.redis_replica, scenario.disk, record),
            replicas: [first, second],
            calls: [Call::IDLE; 2],
            revoke: Revoke::Idle,
            tries: scenario.tries,
            revoker: Witness { epoch: if scenario.fresh_revoker { NO_EPOCH } else { 1 }, left: 0 },
            sweepers: [sweeper(0), sweeper(1)],
            updater: if scenario.updater { Updater::Idle } else { Updater::Done },
            marker: Witness { epoch: if scenario.settled { 1 } else { NO_EPOCH }, left: 0 },
            budget: scenario.budget,
            violated: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if !state.violated && !self.revoke_is_hopeless(state) {
            self.surroundings_actions(state, actions);
            self.replica_actions(state, actions);
            self.validate_actions(state, actions);
            self.revoke_actions(state, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        match action {
            Action::Tick | Action::TickWhileSuspended => {
                self.tick(&mut state, action == Action::TickWhileSuspended);
            }
            Action::Replicate
            | Action::Fsync(_)
            | Action::Failover(_)
            | Action::Resync(..)
            | Action::Crash(_)
            | Action::Rename(_)
            | Action::Flush(_)
            | Action::Create(_)
            | Action::OtherKey(_)
            | Action::Touch(_)
            | Action::Trim(_) => self.surroundings_step(&mut state, action),
            Action::BeatSend(_)
            | Action::BeatRun(..)
            | Action::BeatReply(_)
            | Action::LogRead(..)
            | Action::LogDrop(_)
            | Action::LogAdvance(_)
            | Action::Ack(..)
            | Action::Leave(_)
            | Action::Release(..) => self.replica_step(&mut state, action),
            Action::Start(..)
            | Action::Note(_)
            | Action::Lookup(_)
            | Action::CheckLate(_)
            | Action::Read(..)
            | Action::ReadRefused(_)
            | Action::Answer(_) => self.validate_step(&mut state, action),
            _ => self.revoke_step(&mut state, action),
        }
        reduce(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(SAFE, |_, state: &State| !state.violated),
            Property::sometimes("RevokeKey answers OK", |_, state: &State| state.revoke == Revoke::Ok),
            Property::sometimes("the key is cached", |_, state: &State| state.replicas[0].cached),
        ];
        let Budget { failovers, crashes, renames, flushes, .. } = self.scenario.budget;
        if failovers + crashes + renames + flushes > 0 {
            properties.push(Property::sometimes("a revoke is confirmed in a later epoch", |_, state: &State| {
                matches!(state.revoke, Revoke::Waiting { epoch: 2.., behind: 0, off_disk: false, .. })
            }));
            properties.push(Property::sometimes("the key is cached in a later epoch", |_, state: &State| {
                state.replicas[0].cached && state.replicas[0].epoch > 1
            }));
        }
        properties
    }
}

/// The name of the property that must hold.
pub const SAFE: &str = "no call that starts after OK accepts";

/// Makes states equal that cannot differ in what may still go wrong.
///
/// Calls are interchangeable, so they are sorted; so are sweepers. Once RevokeKey has answered OK nobody reads the lease
/// table or what only a revoke needs, so it is wiped; in the replication stream, writes to it keep their
/// places, because WAIT counts them, up to the last one that matters or is waited for.
fn reduce(state: &mut State) {
    state.calls.sort_unstable();
    state.sweepers.sort_unstable();
    if state.revoke != Revoke::Ok {
        return;
    }
    state.tries = 0;
    state.revoker = Witness { epoch: NO_EPOCH, left: 0 };
    state.marker = state.revoker;
    state.sweepers = [Sweeper::Done; 2];
    state.budget.terms = 0;
    let redis = &mut state.redis;
    for node in &mut redis.nodes {
        for data in std::iter::once(&mut node.data).chain(node.disk.as_mut()) {
            data.members = Default::default();
            data.settled = NO_EPOCH;
        }
    }
    for write in &mut redis.lag {
        if matches!(write, Write::Beat(..) | Write::Ack(..) | Write::Forget(_) | Write::Settle(_)) {
            *write = Write::Nothing;
        }
    }
    let awaited = |lagging: u8| {
        state.replicas.iter().any(|replica| matches!(replica.beat, Beat::Ran { behind, .. } if behind == lagging))
    };
    while redis.lagging > 0 && redis.lag[usize::from(redis.lagging) - 1] == Write::Nothing && !awaited(redis.lagging) {
        redis.lagging -= 1;
    }
    for replica in &mut state.replicas {
        replica.beats = 0;
    }
}
