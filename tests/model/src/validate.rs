//! ValidateKey: rule 9, step by step. Two calls at a time, any number of them one after another.
//!
//! A load is not apart from the call that started it: it goes on to its end, and a call that joined it
//! gets its answer. A call that is refused, or starts without a lease, answers UNAVAILABLE and is gone.

use crate::model::{Action, Fence};
use crate::redis::Record;
use crate::rules::Rule;
use crate::state::{Call, NO_EPOCH, Revoke, State, Step};

impl Fence {
    /// What the calls may do.
    pub(crate) fn validate_actions(&self, state: &State, actions: &mut Vec<Action>) {
        // Calls are sorted, so that an idle one comes first; which of them starts makes no difference.
        if state.calls[0].step == Step::Idle {
            for number in self.replicas() {
                let replica = state.replica(number);
                let unchecked =
                    self.scenario.embedded || !self.keeps(Rule::LeaseNeeded) || !self.keeps(Rule::LeaseBeforeLookup);
                if replica.lease > 0 || unchecked && replica.epoch != NO_EPOCH {
                    actions.push(Action::Start(0, number));
                }
            }
        }
        for (at, call) in (0..).zip(&state.calls) {
            match call.step {
                Step::LeaseSeen => actions.push(Action::Note(at)),
                Step::Checked => actions.push(Action::Lookup(at)),
                Step::HitUnchecked => actions.push(Action::CheckLate(at)),
                Step::Loaded(_) => actions.push(Action::Answer(at)),
                Step::Loading => {
                    let mut refused = false;
                    for node in self.nodes() {
                        let reads = self.may_read(state, call, node);
                        refused |= !reads;
                        if reads {
                            actions.push(Action::Read(at, node));
                        }
                    }
                    if refused {
                        actions.push(Action::ReadRefused(at));
                    }
                }
                Step::Idle | Step::Joined => {}
            }
        }
    }

    /// One of them does it.
    pub(crate) fn validate_step(&self, state: &mut State, action: Action) {
        match action {
            Action::Start(at, replica) => {
                let after_ok = state.revoke == Revoke::Ok;
                let epoch = state.replica(replica).epoch;
                let noted = self.keeps(Rule::GenerationNotedWithLease);
                let step = if noted { Step::Checked } else { Step::LeaseSeen };
                *state.call(at) = Call { step, replica, after_ok, epoch, same_generation: true, attached: false };
            }
            Action::Note(at) => {
                let replica = state.call(at).replica;
                let epoch = state.replica(replica).epoch;
                let call = state.call(at);
                (call.step, call.epoch, call.same_generation) = (Step::Checked, epoch, true);
            }
            Action::Lookup(at) => self.lookup(state, at),
            Action::CheckLate(at) => {
                let replica = state.call(at).replica;
                let accepts = state.replica(replica).lease > 0;
                end(state, at, accepts);
            }
            Action::Read(at, node) => {
                let live = state.redis.node(node).data.record == Record::Live;
                state.call(at).step = Step::Loaded(live);
            }
            Action::ReadRefused(at) => end(state, at, false),
            Action::Answer(at) => {
                let call = *state.call(at);
                let live = call.step == Step::Loaded(true);
                // (d)
                if live && (call.attached || !self.keeps(Rule::InsertChecksAttached)) {
                    state.replica_mut(call.replica).cached = true;
                }
                let held = self.keeps(Rule::LeaseBeforeLookup) || state.replica(call.replica).lease > 0;
                end(state, at, live && held);
            }
            _ => {}
        }
    }

    /// (b)
    fn lookup(&self, state: &mut State, at: u8) {
        let mut call = *state.call(at);
        let replica = *state.replica(call.replica);
        if !self.keeps(Rule::LeaseBeforeLookup) {
            (call.epoch, call.same_generation) = (replica.epoch, true);
        }
        if !call.same_generation && self.keeps(Rule::LookupChecksGeneration) {
            return end(state, at, false);
        }
        if replica.cached && self.keeps(Rule::LeaseBeforeLookup) {
            return end(state, at, true);
        }
        let other = state.calls[usize::from(1 - at)];
        let joins = other.is_loading()
            && other.replica == call.replica
            && (other.attached || !self.keeps(Rule::JoinChecksAttached));
        (call.step, call.attached) = match (replica.cached, joins) {
            (true, _) => (Step::HitUnchecked, false),
            (false, true) => (Step::Joined, false),
            (false, false) => (Step::Loading, true),
        };
        *state.call(at) = call;
    }

    /// (c): whether this node answers the fenced read of a call.
    fn may_read(&self, state: &State, call: &Call, node: u8) -> bool {
        match self.without {
            Some(Rule::ReadChecksEpoch) => state.redis.node(node).primary,
            Some(Rule::ReadChecksRole) => state.redis.epoch_of_any_role(node, self.without) == Some(call.epoch),
            _ => state.redis.epoch(node, self.without) == Some(call.epoch),
        }
    }
}

/// The call is answered, and with it whoever joined its load.
fn end(state: &mut State, at: u8, accepts: bool) {
    let ended = *state.call(at);
    for (number, call) in state.calls.iter_mut().enumerate() {
        let joined = ended.is_loading() && call.step == Step::Joined && call.replica == ended.replica;
        if number == usize::from(at) || joined {
            state.violated |= accepts && call.after_ok;
            *call = Call::IDLE;
        }
    }
}

impl State {
    fn call(&mut self, at: u8) -> &mut Call {
        &mut self.calls[usize::from(at)]
    }
}
