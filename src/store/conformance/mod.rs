//! What every store must do: async functions over a store, run on each backend and decorator.
//!
//! A backend gives a [`Harness`] per function, with an empty store of its own, and calls
//! `store_conformance!(make)` where `async fn make() -> impl Harness`: each function becomes a
//! test of its own. What is asserted here holds for every store; what only one backend can show
//! (a restart, a full disk, a lost connection) is tested beside it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these functions are tests, and a test that cannot go on may stop the way tests stop"
)]

mod audit;
mod commit;
mod guard;
mod idempotency;
mod leases;
mod life;
mod limits;
mod list;
mod log;
pub mod sample;

use std::sync::Arc;

use async_trait::async_trait;

pub use audit::*;
pub use commit::*;
pub use guard::*;
pub use idempotency::*;
pub use leases::*;
pub use life::*;
pub use limits::*;
pub use list::*;
pub use log::*;

use super::{
    AuditCursor, AuditQuery, Commit, ListCursor, ListQuery, LogCursor, LogPage, Outcome, ScanCursor, Store, StoreError,
};
use crate::clock::Timestamp;
use crate::key::{Event, KeyId, KeyRecord};

/// A store to run the suite on, and what the suite cannot do through the trait.
#[async_trait]
pub trait Harness: Send + Sync {
    /// The store: empty when a function begins.
    fn store(&self) -> Arc<dyn Store>;

    /// The real time when a function begins: a backend may expire records by its own clock. The
    /// suite moves on from here by itself.
    fn now(&self) -> Timestamp;

    /// Puts raw bytes where the record of `id` lies, past every check and index.
    async fn plant(&self, id: KeyId, bytes: &[u8]);
}

/// Makes a test of each function of the suite: `store_conformance!(make)`, where
/// `async fn make() -> impl Harness`. Needs tokio's `#[tokio::test]` in reach. Stores that several processes
/// may share pass `store_conformance!(leases make)` as well.
#[macro_export]
macro_rules! store_conformance {
    ($make:path) => {
        $crate::store_conformance!(
            @ $make:
            // commit
            what_was_committed_is_read_back,
            a_write_finds_what_it_expects_or_conflicts,
            a_commit_is_all_or_nothing,
            racing_writers_lose_no_update,
            // idempotency
            a_slot_is_taken_once_and_answers_its_entry,
            a_slot_is_free_again_after_its_time,
            a_replay_writes_again,
            racing_first_tries_write_once,
            // guard
            the_guard_counts_living_keys_alone,
            the_guard_counts_what_the_commit_leaves_behind,
            the_guard_is_per_owner_and_realm,
            racing_creators_never_pass_the_guard,
            // life
            a_record_past_its_time_is_absent_everywhere,
            an_id_past_its_time_can_be_written_anew,
            a_record_lives_as_long_as_its_last_write_says,
            // list
            lists_are_ordered_and_complete_on_every_page_size,
            lists_are_of_one_realm_or_one_owner,
            records_of_one_instant_are_all_listed,
            concurrent_change_skips_nobody,
            a_scan_sees_every_record,
            // audit
            audit_is_ordered_in_both_directions,
            audit_filters_by_everything_given,
            audit_is_paged,
            // log
            the_log_counts_from_one_without_holes,
            the_log_is_read_in_parts,
            a_foreign_or_future_cursor_is_a_gap,
            // limits
            misuse_is_refused,
            a_commit_stays_in_its_shard,
            an_unknown_format_is_refused_and_kept,
            records_at_every_limit,
            the_largest_commit,
            unicode_comes_back_as_it_was,
            pepper_checks_are_written_once,
            health_speaks_of_every_shard,
        );
    };
    (leases $make:path) => {
        $crate::store_conformance!(
            @ $make:
            a_beat_registers_and_answers_the_shard,
            beats_never_go_back,
            what_was_applied_in_another_history_is_nothing,
            who_is_not_silent_is_not_removed,
            who_is_released_is_gone,
            a_settled_history_is_said_to_be,
            a_barrier_is_at_the_last_entry_and_is_none,
            a_commit_tells_who_may_not_know_of_it,
            a_wait_ends_with_an_entry_or_at_its_limit,
            leases_of_no_shard_are_misuse,
        );
    };
    (@ $make:path: $($name:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let harness = $make().await;
                $crate::store::conformance::$name(&harness).await;
            }
        )*
    };
}

/// Commits and expects it to be written.
async fn done(store: &dyn Store, commit: &Commit, now: Timestamp) -> LogCursor {
    match store.commit(commit, now).await {
        Ok(Outcome::Done(done)) => done.at,
        other => panic!("expected the commit to be written, got {other:?}"),
    }
}

/// Every record of a list, in pages of `limit`; none of them longer than that.
async fn list_all(store: &dyn Store, query: &ListQuery, now: Timestamp) -> Vec<KeyRecord> {
    let mut query = query.clone();
    let mut records = Vec::new();
    for _ in 0..10_000 {
        let page = store.list(&query, now).await.unwrap();
        assert!(page.records.len() <= query.limit, "a page of {} where {} were asked", page.records.len(), query.limit);
        records.extend(page.records);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return records,
        }
    }
    panic!("a list that does not end");
}

/// Every record of a scan.
async fn scan_all(store: &dyn Store, now: Timestamp) -> Result<Vec<KeyRecord>, StoreError> {
    let mut cursor: Option<ScanCursor> = None;
    let mut records = Vec::new();
    for _ in 0..10_000 {
        let page = store.scan(cursor, now).await?;
        records.extend(page.records);
        cursor = page.next;
        if cursor.is_none() {
            return Ok(records);
        }
    }
    panic!("a scan that does not end");
}

/// Every event that matches, in pages.
async fn audit_all(store: &dyn Store, query: &AuditQuery) -> Vec<(AuditCursor, Event)> {
    let mut query = query.clone();
    let mut events = Vec::new();
    for _ in 0..10_000 {
        let page = store.audit(&query).await.unwrap();
        assert!(page.events.len() <= query.limit, "a page of {} where {} were asked", page.events.len(), query.limit);
        events.extend(page.events);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return events,
        }
    }
    panic!("an audit log that does not end");
}

/// The log from its beginning, as far as one page of 1,000 goes.
async fn log_from_start(store: &dyn Store, shard: u16) -> LogPage {
    store.log(shard, None, 1_000).await.unwrap()
}

/// The place of a record in a list.
fn place(record: &KeyRecord) -> ListCursor {
    ListCursor { created_at: record.created_at, id: record.id }
}

/// Records in the order of a list.
fn sorted(mut records: Vec<KeyRecord>) -> Vec<KeyRecord> {
    records.sort_by_key(place);
    records
}
