//! A keyclasp process apart from its calls: identity (rule 2), heartbeat and lease (6), epochs and
//! generations (7), the log (8), and leaving (10).

use crate::model::{Action, Fence};
use crate::redis::Write;
use crate::rules::Rule;
use crate::state::{Beat, Call, Epoch, Fetched, Life, NO_EPOCH, Replica, Revoke, State, Step};

impl Fence {
    /// What the processes may do.
    pub(crate) fn replica_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.scenario.embedded {
            return; // no lease, no log
        }
        let redis = &state.redis;
        for number in self.replicas() {
            let replica = state.replica(number);
            let row = |node: u8| redis.node(node).data.members[usize::from(self.identity(number))];
            // A heartbeat that could not lengthen the lease is left out.
            let useful =
                replica.lease < self.scenario.lease && replica.grant.is_none_or(|(left, _)| left < self.scenario.lease);
            if replica.beat == Beat::Idle && replica.life == Life::Serving && useful && state.budget.beats > 0 {
                actions.push(Action::BeatSend(number));
            }
            if matches!(replica.beat, Beat::Ran { behind: 0, .. }) {
                actions.push(Action::BeatReply(number));
            }
            match replica.fetched {
                Fetched::Read { ours: true } | Fetched::AdvancedFirst => actions.push(Action::LogDrop(number)),
                Fetched::Read { ours: false } | Fetched::Dropped => actions.push(Action::LogAdvance(number)),
                Fetched::No => {}
            }
            let last_answer_given = state.calls.iter().all(|call| call.step == Step::Idle || call.replica != number);
            if number == 0 && state.budget.terms > 0 && replica.life == Life::Serving && last_answer_given {
                actions.push(Action::Leave(number));
            }
            for node in self.nodes() {
                let epoch = redis.epoch(node, self.without);
                if matches!(replica.beat, Beat::Sent(_)) && redis.node(node).primary && redis.room(node, 2) {
                    actions.push(Action::BeatRun(number, node));
                }
                if epoch.is_some() && replica.epoch != NO_EPOCH && replica.fetched == Fetched::No {
                    actions.push(Action::LogRead(number, node));
                }
                // Only acknowledgements that somebody waits for: others change nothing but their own row.
                if let Revoke::Waiting { position, .. } = state.revoke
                    && epoch.is_some()
                    && (epoch == Some(replica.epoch) || !self.keeps(Rule::AckCarriesEpoch))
                    && (row(node).registered && row(node).applied < position && position <= replica.applied)
                    && redis.room(node, 1)
                {
                    actions.push(Action::Ack(number, node));
                }
                let leaves = replica.life == Life::Leaving
                    || (!self.keeps(Rule::DropThenRelease) && replica.life == Life::Serving && state.budget.terms > 0);
                if number == 0 && leaves && epoch == Some(replica.epoch) && redis.room(node, 1) {
                    actions.push(Action::Release(number, node));
                }
            }
        }
    }

    /// One of them does it.
    pub(crate) fn replica_step(&self, state: &mut State, action: Action) {
        match action {
            Action::BeatSend(number) => {
                let counts = self.scenario.counts_beats();
                state.budget.beats -= u8::from(counts);
                let replica = state.replica_mut(number);
                replica.beats += u8::from(counts);
                replica.beat = Beat::Sent(self.scenario.lease);
            }
            Action::BeatRun(number, node) => self.beat_run(state, number, node),
            Action::BeatReply(number) => self.beat_reply(state, number),
            Action::LogRead(number, node) => self.log_read(state, number, node),
            Action::LogDrop(number) => {
                self.drop_record(state, number);
                let replica = state.replica_mut(number);
                replica.fetched =
                    if replica.fetched == Fetched::AdvancedFirst { Fetched::No } else { Fetched::Dropped };
            }
            Action::LogAdvance(number) => {
                let replica = state.replica_mut(number);
                replica.fetched = Fetched::No;
                replica.advance();
            }
            Action::Ack(number, node) => {
                let position = state.replica(number).applied;
                state.redis.write(node, Write::Ack(self.identity(number), position));
            }
            Action::Leave(number) => {
                state.budget.terms -= 1;
                let stays = !self.keeps(Rule::NoLeaseAfterLeaving);
                let replica = state.replica_mut(number);
                (replica.life, replica.lease, replica.grant) = (Life::Leaving, 0, None);
                // A heartbeat under way may still register the process after its release; that costs the
                // next revoke a wait, and its reply is ignored: so it is left out.
                if !stays {
                    replica.beat = Beat::Idle;
                }
            }
            Action::Release(number, node) => {
                if state.replica(number).life == Life::Serving {
                    state.budget.terms -= 1;
                }
                state.replica_mut(number).life = Life::Released;
                state.redis.write(node, Write::Forget(self.identity(number)));
            }
            _ => {}
        }
    }

    /// The heartbeat's script. One that was sent in another epoch than its process is in by now is taken
    /// for one of now with less time left: that allows more.
    fn beat_run(&self, state: &mut State, number: u8, node: u8) {
        let Beat::Sent(left) = state.replica(number).beat else { return };
        let Some(epoch) = state.redis.epoch_for_beat(node, self.without) else { return };
        let id = self.identity(number);
        let replica = *state.replica(number);
        let registered = epoch == replica.epoch || replica.epoch == NO_EPOCH;
        if registered {
            let counter = match self.scenario.counts_beats() {
                false => 0,
                true if self.keeps(Rule::CounterNeverRepeats) => replica.beats,
                true => state.redis.node(node).data.members[usize::from(id)].counter + 1,
            };
            state.redis.write(node, Write::Beat(id, counter));
        }
        let waits = registered && self.scenario.wait && self.keeps(Rule::WaitOnBeat);
        let behind = if waits { state.redis.behind(node) } else { 0 };
        let tail = state.redis.node(node).data.tail;
        state.replica_mut(number).beat = Beat::Ran { left, epoch, tail, behind, registered };
    }

    /// The heartbeat's reply: a new epoch, or a lease.
    fn beat_reply(&self, state: &mut State, number: u8) {
        let replica = state.replica_mut(number);
        let Beat::Ran { left, epoch, tail, registered, .. } = replica.beat else { return };
        replica.beat = Beat::Idle;
        if epoch != replica.epoch && !self.take_up(state, number, epoch, tail) {
            return;
        }
        let left = if self.keeps(Rule::LeaseFromSend) { left } else { self.scenario.lease };
        if registered && left > 0 {
            let replica = state.replica_mut(number);
            if self.keeps(Rule::UsableAtTail) {
                replica.grant = Some((left, tail));
                replica.use_grant();
            } else {
                replica.lease = replica.lease.max(left);
            }
        }
    }

    /// A script read of the log: the next entry, or something that starts a new generation.
    fn log_read(&self, state: &mut State, number: u8, node: u8) {
        let data = state.redis.node(node).data;
        let Some(epoch) = state.redis.epoch(node, self.without) else { return };
        let replica = *state.replica(number);
        if epoch != replica.epoch && self.keeps(Rule::LogCarriesEpoch) {
            self.take_up(state, number, epoch, data.tail);
        } else if data.trimmed > replica.applied && self.keeps(Rule::TrimIsNoticed)
            || data.tail < replica.applied && self.keeps(Rule::ShortLogIsNoticed)
        {
            self.new_generation(state, number, data.tail);
        } else if data.tail > replica.applied {
            let position = replica.applied.max(data.trimmed);
            let ours = data.ours & (1 << position) != 0;
            let replica = state.replica_mut(number);
            replica.applied = position;
            if self.scenario.log_in_steps && self.keeps(Rule::DropThenAdvance) {
                replica.fetched = Fetched::Read { ours };
            } else if self.scenario.log_in_steps {
                replica.fetched = if ours { Fetched::AdvancedFirst } else { Fetched::No };
                replica.advance();
            } else {
                replica.advance();
                if ours {
                    self.drop_record(state, number);
                }
            }
        }
    }

    /// An entry of the key: its cached record goes, its load is detached.
    pub(crate) fn drop_record(&self, state: &mut State, number: u8) {
        state.replica_mut(number).cached = false;
        if self.keeps(Rule::EntryDetachesLoad) {
            state.detach_loads(number);
        }
    }

    /// A reply names another epoch than the process is in. Whether it is in that one now.
    fn take_up(&self, state: &mut State, number: u8, epoch: Epoch, tail: u8) -> bool {
        let replica = state.replica_mut(number);
        if replica.left & (1 << epoch) != 0 && self.keeps(Rule::NeverReturns) {
            return false;
        }
        if replica.epoch != NO_EPOCH {
            replica.left |= 1 << replica.epoch;
        }
        replica.epoch = epoch;
        if matches!(replica.beat, Beat::Ran { epoch: of_beat, .. } if of_beat != epoch)
            && self.keeps(Rule::NeverReturns)
        {
            replica.beat = Beat::Idle; // its reply would be of an epoch that was left
        }
        self.new_generation(state, number, tail);
        true
    }

    /// Rule 7.
    fn new_generation(&self, state: &mut State, number: u8, tail: u8) {
        let replica = state.replica_mut(number);
        if self.keeps(Rule::NewEpochDropsLease) {
            (replica.lease, replica.grant) = (0, None);
        }
        if self.keeps(Rule::NewEpochClearsCache) {
            replica.cached = false;
        }
        if self.keeps(Rule::NewEpochMovesCursor) {
            replica.applied = tail;
        }
        if self.keeps(Rule::NewEpochDiscardsEntries) {
            replica.fetched = Fetched::No;
        }
        if self.keeps(Rule::NewEpochDetachesLoads) {
            state.detach_loads(number);
        }
        if self.keeps(Rule::NewEpochChangesGeneration) {
            for call in state.calls_at(number) {
                call.same_generation = false;
            }
        }
    }
}

impl Replica {
    /// Applied moves on by one, which may make a lease usable.
    fn advance(&mut self) {
        self.applied += 1;
        self.use_grant();
    }

    /// The granted lease becomes the lease if its tail is applied; until then the previous one keeps its
    /// own end.
    fn use_grant(&mut self) {
        if let Some((left, tail)) = self.grant
            && self.applied >= tail
        {
            self.lease = self.lease.max(left);
            self.grant = None;
        }
    }
}

impl State {
    /// A replica by its number.
    pub fn replica(&self, number: u8) -> &Replica {
        &self.replicas[usize::from(number)]
    }

    /// A replica by its number, to change it.
    pub fn replica_mut(&mut self, number: u8) -> &mut Replica {
        &mut self.replicas[usize::from(number)]
    }

    /// The calls under way at a replica.
    pub fn calls_at(&mut self, number: u8) -> impl Iterator<Item = &mut Call> {
        self.calls.iter_mut().filter(move |call| call.step != Step::Idle && call.replica == number)
    }

    fn detach_loads(&mut self, number: u8) {
        for call in self.calls_at(number) {
            call.attached = false;
        }
    }
}
