//! The searches: every scenario holds with all the rules; each rule that the model can express breaks
//! one when it is removed.
//!
//! CI searches with L = 1 tick and stops the larger scenarios at [`CI_STATES`], breadth first, so that
//! what it has seen are all the shortest histories; with `KEYCLASP_TORTURE` set, spaces are searched to
//! their end, with L as in the list. `-- --nocapture` prints a table, and the shortest counterexample of
//! each removed rule.

use std::time::Instant;

use keyclasp_model::model::SAFE;
use keyclasp_model::{Action, Fence, Rule, Scenario};
use stateright::{Checker, HasDiscoveries, Model};

/// Where CI stops: so many states generated, of which about every fourth is a new one.
const CI_STATES: usize = 3_000_000;

/// A test for each scenario: its name, the scenario, and L in the long version.
macro_rules! holds {
    ($($name:ident: $scenario:ident, $lease:literal;)*) => {
        mod holds {
            use super::*;
            $(
                #[test]
                fn $name() {
                    search_whole(Scenario::$scenario, $lease);
                }
            )*
        }
    };
}

holds! {
    embedded: EMBEDDED, 1;
    standalone: STANDALONE, 3;
    standalone_with_a_crash: CRASH, 3;
    standalone_with_a_crash_and_another_key: CRASH_BUSY, 2;
    standalone_with_a_crash_and_a_retry: CRASH_RETRY, 2;
    standalone_with_a_crash_and_the_incarnation_of_a_heartbeat: CRASH_INCARNATION, 2;
    standalone_with_a_lagging_replica: LAGGING_REPLICA, 3;
    failover: FAILOVER, 3;
    failover_with_another_key: FAILOVER_BUSY, 2;
    failover_with_a_retry: FAILOVER_RETRY, 2;
    failover_with_the_incarnation_of_a_heartbeat: FAILOVER_INCARNATION, 2;
    failover_of_three_nodes: FAILOVER_OF_THREE, 3;
    failover_of_three_nodes_with_another_key: FAILOVER_OF_THREE_BUSY, 2;
    crash_and_failover: CRASH_AND_FAILOVER, 2;
    new_replid_in_place: RENAMED, 2;
    flushall: FLUSHALL, 2;
    flushall_twice: FLUSHALL_TWICE, 2;
    log_in_steps: LOG_IN_STEPS, 3;
    log_in_steps_with_a_crash: LOG_IN_STEPS_CRASH, 2;
    log_in_steps_with_a_failover: LOG_IN_STEPS_FAILOVER, 2;
    trimmed_log: TRIMMED, 3;
    joining_process: JOINER, 2;
    joining_process_with_a_crash: JOINER_CRASH, 1;
    joining_process_with_a_failover: JOINER_FAILOVER, 1;
    revoke_keys_while_a_process_joins: BATCH_JOINER, 2;
    revoke_keys_with_a_crash: BATCH_CRASH, 2;
    revoke_keys_with_a_failover: BATCH_FAILOVER, 2;
    leaving_process: LEAVING, 3;
    leaving_process_with_a_failover: LEAVING_FAILOVER, 2;
    silent_rows: SWEEPING, 2;
    silent_rows_with_a_failover: SWEEPING_FAILOVER, 2;
    commit_by_epoch_with_a_failover: UPDATER, 2;
    commit_by_epoch_with_a_crash: UPDATER_CRASH, 2;
    settled_epochs_with_a_crash: SETTLED, 2;
    settled_epochs_with_a_failover: SETTLED_FAILOVER, 2;
}

/// The scenario in which a rule's removal shows, with L; or none where the model has found nothing that
/// would go wrong without this rule alone.
fn needed_in(rule: Rule) -> Option<(Scenario, u8)> {
    Some(match rule {
        Rule::Incarnation => (Scenario::FLUSHALL, 1),
        Rule::ScriptsRefuseWhileNotOwn => (Scenario::FAILOVER_INCARNATION, 1),
        Rule::ReadChecksEpoch | Rule::PollChecksEpoch => (Scenario::FAILOVER_OF_THREE, 1),
        Rule::ReadChecksRole => (Scenario::LAGGING_REPLICA, 1),
        Rule::LogCarriesEpoch => (Scenario::FAILOVER_BUSY, 1),
        Rule::AckCarriesEpoch => (Scenario::FAILOVER_RETRY, 1),
        Rule::OwnIdentity => (Scenario::JOINER, 1),
        Rule::WaitOnBeat | Rule::WaitOnRevoke => (Scenario::FAILOVER, 1),
        Rule::OnDiskBeforeOk | Rule::AwaitNewEpoch => (Scenario::CRASH, 1),
        Rule::RetryWrites => (Scenario::FAILOVER_RETRY, 1),
        Rule::NewEpochClearsCache | Rule::NewEpochDetachesLoads => (Scenario::CRASH, 1),
        Rule::NewEpochChangesGeneration | Rule::LookupChecksGeneration => (Scenario::FAILOVER, 1),
        Rule::NewEpochMovesCursor => (Scenario::CRASH_BUSY, 1),
        Rule::NewEpochDiscardsEntries => (Scenario::LOG_IN_STEPS_CRASH, 1),
        Rule::TrimIsNoticed => (Scenario::TRIMMED, 1),
        Rule::DropThenAdvance => (Scenario::LOG_IN_STEPS, 1),
        Rule::AwaitMembers
        | Rule::LeaseFromSend
        | Rule::UsableAtTail
        | Rule::ClockCountsSuspend
        | Rule::EntryDetachesLoad
        | Rule::LeaseNeeded
        | Rule::LeaseBeforeLookup
        | Rule::InsertChecksAttached
        | Rule::JoinChecksAttached => (Scenario::STANDALONE, 1),
        Rule::DropThenRelease | Rule::NoLeaseAfterLeaving => (Scenario::LEAVING, 1),
        Rule::CompareAndDelete | Rule::CounterNeverRepeats => (Scenario::SWEEPING, 1),
        Rule::SweepByOwnClock => (Scenario::STANDALONE, 1),
        Rule::BatchInOneEpoch => (Scenario::BATCH_FAILOVER, 1),
        Rule::MembersOfLastReply => (Scenario::BATCH_JOINER, 1),
        Rule::CommitThenInvalidate => (Scenario::EMBEDDED, 1),
        Rule::CommitNamesEpoch => (Scenario::UPDATER, 1),
        Rule::MarkNamesEpoch | Rule::MarkAfterLease => (Scenario::SETTLED, 1),
        Rule::NewEpochDropsLease | Rule::NeverReturns | Rule::ShortLogIsNoticed | Rule::GenerationNotedWithLease => {
            return None;
        }
    })
}

#[test]
fn each_rule_that_the_model_can_express_breaks_a_scenario_when_it_is_removed() {
    for &rule in Rule::ALL {
        if let Some((scenario, lease)) = needed_in(rule) {
            let fence = Fence { scenario: Scenario { lease, ..scenario }, without: Some(rule) };
            let found = search(fence, usize::MAX);
            let trace = found.counterexample.unwrap_or_else(|| panic!("nothing breaks without {rule:?}"));
            println!("without {rule:?}: {} steps, {} states, in: {}", trace.len(), found.states, scenario.name);
            println!("    {trace:?}");
        }
    }
}

/// These stay in the protocol all the same: what makes each one unnecessary is another rule, and what
/// the model leaves out might not be so kind. Should one of them become needed, this test says so.
#[test]
fn the_other_rules_are_a_second_line() {
    for &rule in Rule::ALL {
        if needed_in(rule).is_none() {
            for scenario in [
                Scenario::CRASH_BUSY,
                Scenario::FAILOVER_BUSY,
                Scenario::FAILOVER_OF_THREE,
                Scenario::FLUSHALL,
                Scenario::TRIMMED,
                Scenario::RENAMED,
            ] {
                let fence = Fence {
                    scenario: Scenario { lease: if torture() { 2 } else { 1 }, ..scenario },
                    without: Some(rule),
                };
                let found = search(fence, if torture() { usize::MAX } else { CI_STATES / 3 });
                assert_eq!(found.counterexample, None, "{rule:?} is needed in: {}", scenario.name);
                println!("without {rule:?}: nothing breaks in {} states of: {}", found.states, scenario.name);
            }
        }
    }
}

/// Searches a scenario with all the rules: to its end, or in CI until [`CI_STATES`].
fn search_whole(scenario: Scenario, lease: u8) {
    let scenario = Scenario { lease: if torture() { lease } else { 1 }, ..scenario };
    #[expect(clippy::disallowed_methods, reason = "how long a search takes is part of the table, and decides nothing")]
    let started = Instant::now();
    let fence = Fence { scenario, without: None };
    let found = search(fence, if torture() { usize::MAX } else { CI_STATES });
    println!(
        "| {} | {} | {}{} | {} | {:.1} s |",
        scenario.name,
        scenario.lease,
        found.states,
        if found.whole { "" } else { " (not all)" },
        found.depth,
        started.elapsed().as_secs_f32(),
    );
    assert_eq!(found.counterexample, None, "{}", scenario.name);
    assert!(found.whole || !torture(), "{}: the search did not come to its end", scenario.name);
    if found.whole {
        assert_eq!(found.unreached, [""; 0], "{}: a search that never gets there proves nothing", scenario.name);
    }
}

/// What a search has found.
struct Found {
    /// The actions of the shortest history that breaks the claim.
    counterexample: Option<Vec<Action>>,
    /// Properties of kind "sometimes" that no state had.
    unreached: Vec<&'static str>,
    /// Distinct states.
    states: usize,
    /// Longest history looked at.
    depth: usize,
    /// Whether there are no more states.
    whole: bool,
}

fn search(fence: Fence, most_states: usize) -> Found {
    let mut checker = fence.checker().threads(1).finish_when(HasDiscoveries::AnyFailures);
    if most_states != usize::MAX {
        checker = checker.target_state_count(most_states);
    }
    let checker = checker.spawn_bfs().join();
    let reached = checker.discoveries();
    Found {
        counterexample: checker.discovery(SAFE).map(|path| path.into_actions()),
        unreached: fence
            .properties()
            .iter()
            .map(|property| property.name)
            .filter(|name| *name != SAFE && !reached.contains_key(name))
            .collect(),
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        whole: checker.state_count() < most_states,
    }
}

fn torture() -> bool {
    std::env::var_os("KEYCLASP_TORTURE").is_some()
}
