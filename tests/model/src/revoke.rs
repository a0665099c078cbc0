//! RevokeKey: rules 4 and 5. And whatever else writes for a reason of its own: those who delete silent
//! rows (10), a caller that commits what it made of an older read, a member that marks epochs as settled.
//!
//! On the embedded store, RevokeKey commits, then invalidates its own process's cache, then answers.
//!
//! RevokeKey's read and its commit are one step here: the commit refuses where anything has changed in
//! between, and then both are done again. That this refusal is sound is the updater's scenario.

use crate::model::{Action, Fence};
use crate::redis::{Data, NO_REPLICA, Record, Write};
use crate::rules::Rule;
use crate::state::{Fetched, NO_EPOCH, Revoke, State, Sweeper, Updater, Witness};

impl Fence {
    /// What they may do.
    pub(crate) fn revoke_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let redis = &state.redis;
        if self.scenario.embedded && state.replicas[0].fetched == Fetched::No {
            let when = if self.keeps(Rule::CommitThenInvalidate) {
                matches!(state.revoke, Revoke::Waiting { awaited: 1, .. })
            } else {
                state.revoke == Revoke::Idle
            };
            if when {
                actions.push(Action::InvalidateInPlace);
            }
        }
        if let Revoke::Waiting { behind, off_disk, awaited, .. } = state.revoke {
            if state.tries > 0 {
                actions.push(Action::RevokeUnknown);
            }
            let confirmed = behind == 0 && !off_disk;
            let epoch_is_old = state.revoker.left == 0 || !self.keeps(Rule::AwaitNewEpoch);
            let acknowledged = awaited == 0 || !self.keeps(Rule::AwaitMembers);
            if confirmed && epoch_is_old && acknowledged {
                actions.push(Action::RevokeOk);
            }
        }
        for node in self.nodes() {
            let Some(epoch) = redis.epoch(node, self.without) else { continue };
            let data = redis.node(node).data;
            let room = redis.room(node, 1);
            match state.revoke {
                Revoke::Idle if state.tries > 0 => {
                    if epoch > state.revoker.epoch && self.keeps(Rule::AwaitNewEpoch) {
                        actions.push(Action::RevokerSees(node));
                    }
                    let invalidated = !self.scenario.embedded
                        || self.keeps(Rule::CommitThenInvalidate)
                        || state.replicas[0].fetched == Fetched::Dropped;
                    if epoch >= state.revoker.epoch && data.record != Record::Absent && room && invalidated {
                        if self.scenario.batch {
                            actions.extend([true, false].map(|ours| Action::RevokeFirst(node, ours)));
                        } else {
                            actions.push(Action::RevokeRun(node));
                        }
                    }
                }
                Revoke::FirstOfTwo { epoch: of_first, .. }
                    if room && (epoch == of_first || !self.keeps(Rule::BatchInOneEpoch)) =>
                {
                    actions.push(Action::RevokeRun(node));
                }
                Revoke::Waiting { epoch: of_run, awaited, .. }
                    if awaited != 0
                        && !self.scenario.embedded
                        && (epoch == of_run || !self.keeps(Rule::PollChecksEpoch)) =>
                {
                    actions.push(Action::RevokePoll(node));
                }
                _ => {}
            }
            for (at, sweeper) in (0..).zip(state.sweepers) {
                match sweeper {
                    Sweeper::Idle if data.members[0].registered => actions.push(Action::SweeperSees(at, node)),
                    Sweeper::Waiting(of_run, _, 0) if of_run == epoch && room => {
                        actions.push(Action::SweeperDeletes(at, node));
                    }
                    _ => {}
                }
            }
            if !self.keeps(Rule::SweepByOwnClock) && data.members[0].registered && room {
                actions.push(Action::SweepByWallClock(node));
            }
            match state.updater {
                Updater::Idle if data.record == Record::Live => actions.push(Action::UpdaterReads(node)),
                Updater::HasRead(version, of_read)
                    if version == data.version && (of_read == epoch || !self.keeps(Rule::CommitNamesEpoch)) && room =>
                {
                    actions.push(Action::UpdaterCommits(node));
                }
                _ => {}
            }
            if state.marker.epoch != NO_EPOCH && epoch > state.marker.epoch {
                actions.push(Action::MarkerSees(node));
            }
            let ripe = state.marker.left == 0 || !self.keeps(Rule::MarkAfterLease);
            if state.marker.epoch == epoch && ripe && data.settled != epoch && room {
                actions.push(Action::MarkerMarks(node));
            }
        }
    }

    /// One of them does it.
    pub(crate) fn revoke_step(&self, state: &mut State, action: Action) {
        let lease = self.scenario.lease;
        let seen = |epoch: Option<u8>| epoch.map(|epoch| Witness { epoch, left: lease });
        match action {
            Action::RevokerSees(node) => {
                state.revoker = seen(state.redis.epoch(node, self.without)).unwrap_or(state.revoker);
            }
            Action::MarkerSees(node) => {
                state.marker = seen(state.redis.epoch(node, self.without)).unwrap_or(state.marker);
            }
            Action::MarkerMarks(node) => {
                let epoch = state.marker.epoch;
                state.redis.write(node, Write::Settle(epoch));
            }
            Action::RevokeFirst(node, ours) => {
                if let Some(epoch) = state.redis.epoch(node, self.without) {
                    let awaited = members(&state.redis.node(node).data);
                    state.redis.write(node, if ours { Write::Key(Record::Revoked, 0) } else { Write::Other });
                    state.revoke = Revoke::FirstOfTwo { epoch, ours, awaited };
                }
            }
            Action::RevokeRun(node) => self.revoke_run(state, node),
            Action::RevokePoll(node) => {
                let members = state.redis.node(node).data.members;
                if let Revoke::Waiting { position, awaited, .. } = &mut state.revoke {
                    for (id, row) in members.iter().enumerate() {
                        if !row.registered || row.applied >= *position {
                            *awaited &= !(1 << id);
                        }
                    }
                }
            }
            Action::InvalidateInPlace => {
                self.drop_record(state, 0);
                // Only marks that it is done, before the commit.
                state.replicas[0].fetched =
                    if self.keeps(Rule::CommitThenInvalidate) { Fetched::No } else { Fetched::Dropped };
                if let Revoke::Waiting { awaited, .. } = &mut state.revoke {
                    *awaited = 0;
                }
            }
            Action::RevokeUnknown => state.revoke = Revoke::Idle,
            Action::RevokeOk => state.revoke = Revoke::Ok,
            Action::SweeperSees(at, node) => {
                if let Some(epoch) = state.redis.epoch(node, self.without) {
                    let counter = state.redis.node(node).data.members[0].counter;
                    state.sweepers[usize::from(at)] = Sweeper::Waiting(epoch, counter, lease);
                }
            }
            Action::SweeperDeletes(at, node) => {
                let row = state.redis.node(node).data.members[0];
                if let Sweeper::Waiting(_, counter, _) = state.sweepers[usize::from(at)]
                    && row.registered
                    && (row.counter == counter || !self.keeps(Rule::CompareAndDelete))
                {
                    state.redis.write(node, Write::Forget(0));
                }
                state.sweepers[usize::from(at)] = Sweeper::Done;
            }
            Action::SweepByWallClock(node) => state.redis.write(node, Write::Forget(0)),
            Action::UpdaterReads(node) => {
                if let Some(epoch) = state.redis.epoch(node, self.without) {
                    state.updater = Updater::HasRead(state.redis.node(node).data.version, epoch);
                }
            }
            Action::UpdaterCommits(node) => {
                if let Updater::HasRead(version, _) = state.updater {
                    state.redis.write(node, Write::Key(Record::Live, version + 1));
                }
                state.updater = Updater::Done;
            }
            _ => {}
        }
    }

    /// RevokeKey's script, and what its reply says.
    fn revoke_run(&self, state: &mut State, node: u8) {
        let Some(epoch) = state.redis.epoch(node, self.without) else { return };
        let before = *state.redis.node(node);
        let first = match state.revoke {
            Revoke::FirstOfTwo { ours, awaited, .. } => Some((ours, awaited)),
            _ => None,
        };
        let second_is_other = first.is_some_and(|(ours, _)| ours);
        let writes = second_is_other || before.data.record != Record::Revoked || self.keeps(Rule::RetryWrites);
        if second_is_other {
            state.redis.write(node, Write::Other);
        } else if writes {
            let version = before.data.version + u8::from(self.scenario.updater);
            state.redis.write(node, Write::Key(Record::Revoked, version));
        }
        state.tries -= 1;
        if state.revoker.epoch != epoch {
            state.revoker = Witness { epoch, left: self.scenario.lease };
        }
        let marked = before.data.settled;
        if self.scenario.settled && marked != NO_EPOCH && (marked == epoch || !self.keeps(Rule::MarkNamesEpoch)) {
            state.revoker.left = 0;
        }
        let waits = writes && self.scenario.wait && self.keeps(Rule::WaitOnRevoke);
        let awaited = match first {
            _ if self.scenario.embedded => u8::from(self.keeps(Rule::CommitThenInvalidate)),
            Some((_, of_first)) if !self.keeps(Rule::MembersOfLastReply) => of_first,
            _ => members(&before.data),
        };
        state.revoke = Revoke::Waiting {
            epoch,
            position: state.redis.node(node).data.tail,
            behind: if waits { state.redis.behind(node) } else { 0 },
            off_disk: writes && before.disk.is_some() && self.keeps(Rule::OnDiskBeforeOk),
            left: self.scenario.lease,
            awaited,
        };
    }

    /// Whether RevokeKey can no longer answer OK, so that nothing can go wrong any more.
    pub(crate) fn revoke_is_hopeless(&self, state: &State) -> bool {
        let redis = &state.redis;
        match state.revoke {
            _ if state.tries > 0 => false,
            Revoke::Idle => true,
            // It ran on the old primary, which nobody follows any more.
            Revoke::Waiting { epoch, behind: NO_REPLICA, .. } => !self
                .nodes()
                .any(|node| redis.node(node).replid == redis.replids && redis.epoch(node, self.without) == Some(epoch)),
            Revoke::FirstOfTwo { .. } | Revoke::Waiting { .. } | Revoke::Ok => false,
        }
    }
}

/// Who is in the lease table, a bit each.
fn members(data: &Data) -> u8 {
    data.members.iter().zip([1, 2]).filter(|(row, _)| row.registered).map(|(_, bit)| bit).sum()
}
