//! What happens to keyclasp: time passes, Redis replicates, fails over, restarts, is flushed, and others
//! commit.
//!
//! What a failover rests on is built in: the promoted node has what WAIT 1 confirmed, because it is the
//! one replica there is; and the old primary, cut off from it, goes on answering whoever still reaches it.

use crate::model::{Action, Fence};
use crate::redis::{Data, NO_REPLICA, Record, THIRD, Write};
use crate::rules::Rule;
use crate::state::{Beat, Left, Revoke, State, Sweeper};

impl Fence {
    /// What may happen.
    pub(crate) fn surroundings_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let (redis, budget) = (&state.redis, &state.budget);
        actions.push(Action::Tick);
        if !self.keeps(Rule::ClockCountsSuspend) {
            actions.push(Action::TickWhileSuspended);
        }
        if redis.lagging > 0 {
            actions.push(Action::Replicate);
        }
        for number in self.nodes() {
            let node = redis.node(number);
            if node.disk.is_some_and(|disk| disk != node.data) {
                actions.push(Action::Fsync(number));
            }
            if !node.primary {
                if budget.failovers > 0 {
                    actions.push(Action::Failover(number));
                }
            } else if budget.crashes > 0 {
                actions.push(Action::Crash(number));
            }
            let newest = redis.node(1 - number).primary && redis.node(1 - number).replid == redis.replids;
            if self.scenario.redis_replica && redis.link.is_none() && newest {
                actions.push(Action::Resync(1 - number, number));
            }
            if node.primary && budget.flushes > 0 {
                actions.push(Action::Flush(number));
            }
            if node.primary && budget.renames > 0 {
                actions.push(Action::Rename(number));
            }
            if redis.epoch(number, self.without).is_some() && redis.room(number, 1) {
                if budget.creates > 0 && node.data.record == Record::Absent {
                    actions.push(Action::Create(number));
                }
                if budget.others > 0 {
                    actions.push(Action::OtherKey(number));
                }
                if budget.touches > 0 && node.data.record == Record::Live {
                    actions.push(Action::Touch(number));
                }
                if budget.trims > 0 && node.data.trimmed < node.data.tail {
                    actions.push(Action::Trim(number));
                }
            }
        }
    }

    /// One of them happens.
    pub(crate) fn surroundings_step(&self, state: &mut State, action: Action) {
        let by_heartbeat = self.scenario.incarnation_by_heartbeat;
        match action {
            Action::Replicate => {
                state.redis.replicate();
                confirm(state, |behind| if behind == NO_REPLICA { behind } else { behind.saturating_sub(1) });
            }
            Action::Fsync(number) => {
                let here = state.redis.epoch(number, self.without);
                let node = state.redis.node_mut(number);
                node.disk = Some(node.data);
                if let Revoke::Waiting { epoch, off_disk, .. } = &mut state.revoke
                    && here == Some(*epoch)
                {
                    *off_disk = false;
                }
            }
            Action::Failover(number) => {
                state.budget.failovers -= 1;
                lose_unconfirmed(state);
                state.redis.unlink();
                state.redis.node_mut(number).primary = true;
                state.redis.new_replid(number, !by_heartbeat);
                state.redis.link = self.scenario.third_node.then_some((number, THIRD));
            }
            Action::Resync(from, to) => {
                // The copy contains whatever WAIT was waiting for on that primary; what waited on the
                // other one, if that was a primary, is told that it is none any more.
                let here = state.redis.epoch(from, self.without);
                let copied = *state.redis.node(from);
                let node = state.redis.node_mut(to);
                (node.primary, node.replid, node.data, node.disk) = (false, copied.replid, copied.data, None);
                state.redis.link = Some((from, to));
                for replica in &mut state.replicas {
                    if let Beat::Ran { epoch, behind, .. } = &mut replica.beat
                        && Some(*epoch) == here
                    {
                        *behind = 0;
                    }
                }
                if let Revoke::Waiting { epoch, behind, .. } = &mut state.revoke
                    && Some(*epoch) == here
                {
                    *behind = 0;
                }
                lose_unconfirmed(state);
            }
            Action::Crash(number) => {
                state.budget.crashes -= 1;
                lose_unconfirmed(state);
                state.redis.unlink();
                let node = state.redis.node_mut(number);
                node.data = node.disk.unwrap_or(node.data);
                state.redis.new_replid(number, !by_heartbeat);
                let now = state.redis.node(number).data;
                if let Some(disk) = &mut state.redis.node_mut(number).disk {
                    *disk = now;
                }
            }
            Action::Rename(number) => {
                state.budget.renames -= 1;
                state.redis.new_replid(number, !by_heartbeat);
            }
            Action::Flush(number) => {
                // It keeps the replid, and nothing else.
                state.budget.flushes -= 1;
                state.redis.node_mut(number).data = Data::EMPTY;
            }
            Action::Create(number) => {
                state.budget.creates -= 1;
                state.redis.write(number, Write::Key(Record::Live, 0));
            }
            Action::OtherKey(number) => {
                state.budget.others -= 1;
                state.redis.write(number, Write::Other);
            }
            Action::Touch(number) => {
                state.budget.touches -= 1;
                let version = state.redis.node(number).data.version + 1;
                state.redis.write(number, Write::Key(Record::Live, version));
            }
            Action::Trim(number) => {
                state.budget.trims -= 1;
                state.redis.node_mut(number).data.trimmed += 1;
            }
            _ => {}
        }
    }

    /// All clocks tick; where one is suspended and does not count that, the first replica's does not.
    pub(crate) fn tick(&self, state: &mut State, first_is_suspended: bool) {
        let down = |left: &mut Left| *left = left.saturating_sub(1);
        for (number, replica) in state.replicas.iter_mut().enumerate() {
            if first_is_suspended && number == 0 {
                continue;
            }
            down(&mut replica.lease);
            if let Some((left, _)) = &mut replica.grant {
                down(left);
            }
            if matches!(replica.grant, Some((0, _))) {
                replica.grant = None;
            }
            if let Beat::Sent(left) | Beat::Ran { left, .. } = &mut replica.beat {
                down(left);
                // A lease from it would be over: whatever it says about an epoch, another reply says too.
                if *left == 0 && self.keeps(Rule::LeaseFromSend) {
                    replica.beat = Beat::Idle;
                }
            }
        }
        if let Revoke::Waiting { left, awaited, .. } = &mut state.revoke {
            down(left);
            if *left == 0 && !self.scenario.embedded {
                *awaited = 0; // none of them is waited for any longer
            }
        }
        down(&mut state.revoker.left);
        down(&mut state.marker.left);
        for sweeper in &mut state.sweepers {
            if let Sweeper::Waiting(_, _, left) = sweeper {
                down(left);
            }
        }
    }
}

/// Every WAIT that is under way moves on.
fn confirm(state: &mut State, step: impl Fn(u8) -> u8) {
    for replica in &mut state.replicas {
        if let Beat::Ran { behind, .. } = &mut replica.beat {
            *behind = step(*behind);
        }
    }
    if let Revoke::Waiting { behind, .. } = &mut state.revoke {
        *behind = step(*behind);
    }
}

/// The primary is gone, or cut off: what WAIT or the disk had not confirmed never will be. What they had
/// confirmed may still arrive.
fn lose_unconfirmed(state: &mut State) {
    for replica in &mut state.replicas {
        if matches!(replica.beat, Beat::Ran { behind, .. } if behind > 0) {
            replica.beat = Beat::Idle;
        }
    }
    if matches!(state.revoke, Revoke::Waiting { behind, off_disk, .. } if behind > 0 || off_disk) {
        state.revoke = Revoke::Idle;
    }
}
