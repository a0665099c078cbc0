//! Leases: who is a member, how far each has read, and what a commit tells of them. For stores that have
//! [`Leases`]; run by `store_conformance!(leases …)`.

use std::time::Duration;

use futures_util::FutureExt as _;

use super::sample::{self, Holder, holder};
use super::{Harness, done};
use crate::store::{
    Beat, Beaten, Epoch, LONGEST_WAKE, Leases, LogCursor, Member, MemberId, Outcome, Store, StoreError, shard_of,
};

/// Longer than anything here takes.
const BOUND: Duration = Duration::from_secs(30);

fn id(n: u8) -> MemberId {
    MemberId([n; 16])
}

const fn beat(member: MemberId, number: u64, applied: Option<LogCursor>) -> Beat {
    Beat { member, number, applied, confirmed: true }
}

fn leases(store: &dyn Store) -> &dyn Leases {
    store.leases().unwrap()
}

fn ada(store: &dyn Store) -> (Holder, u16) {
    let ada = holder("acme", "ada");
    let shard = shard_of(ada.bucket(), store.shards());
    (ada, shard)
}

/// The members, by their ids.
async fn members(leases: &dyn Leases, shard: u16) -> Vec<Member> {
    sorted(leases.members(shard).await.unwrap().members)
}

fn sorted(mut members: Vec<Member>) -> Vec<Member> {
    members.sort_by_key(|member| member.id);
    members
}

async fn epoch_of(store: &dyn Store, shard: u16) -> Epoch {
    store.log(shard, None, 0).await.unwrap().epoch
}

/// Each beat answers the shard as it is, with its own row; confirmed or not, in its own shard alone.
pub async fn a_beat_registers_and_answers_the_shard(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let leases = leases(&*store);
    let (ada, shard) = ada(&*store);
    let epoch = epoch_of(&*store, shard).await;
    let first = leases.beat(shard, &beat(id(1), 1, None)).await.unwrap();
    let row = Member { id: id(1), beat: 1, applied: 0 };
    assert_eq!(first, Beaten { epoch, tail: 0, settled: false, members: vec![row] });
    assert!(leases.term() > Duration::ZERO);

    let at = done(&*store, &sample::create(&ada.record(1, now)), now).await;
    let other = Beat { confirmed: false, ..beat(id(2), 900, Some(at)) };
    let second = leases.beat(shard, &other).await.unwrap();
    let rows = vec![row, Member { id: id(2), beat: 900, applied: 1 }];
    assert_eq!((second.tail, sorted(second.members)), (1, rows.clone()));
    let found = leases.members(shard).await.unwrap();
    assert_eq!((found.epoch, found.tail, found.settled, sorted(found.members)), (epoch, 1, false, rows));
    for other in (0..store.shards()).filter(|other| *other != shard) {
        assert_eq!(members(leases, other).await, []);
    }
}

/// A beat that was overtaken, or sent twice, changes no number back.
pub async fn beats_never_go_back(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let leases = leases(&*store);
    let (ada, shard) = ada(&*store);
    let mut at = Vec::new();
    for n in 1..=12 {
        at.push(done(&*store, &sample::create(&ada.record(n, now)), now).await);
    }
    let (early, late) = (Some(at[8]), Some(at[10]));
    for (number, applied, expected) in
        [(10, late, (10, 11)), (9, late, (10, 11)), (9, early, (10, 11)), (11, early, (11, 11)), (100, None, (100, 11))]
    {
        for confirmed in [true, false] {
            let found = leases.beat(shard, &Beat { confirmed, ..beat(id(1), number, applied) }).await.unwrap();
            assert_eq!(found.members, [Member { id: id(1), beat: expected.0, applied: expected.1 }]);
        }
    }
}

/// Positions of another history are not taken for those of this one.
pub async fn what_was_applied_in_another_history_is_nothing(harness: &dyn Harness) {
    let store = harness.store();
    let leases = leases(&*store);
    let (_, shard) = ada(&*store);
    let foreign = LogCursor { epoch: Epoch([7; 32]), position: 100 };
    let found = leases.beat(shard, &beat(id(1), 1, Some(foreign))).await.unwrap();
    assert_eq!(found.members, [Member { id: id(1), beat: 1, applied: 0 }]);
}

/// Who has beaten since he was looked at stays, and so does everybody in another history.
pub async fn who_is_not_silent_is_not_removed(harness: &dyn Harness) {
    let store = harness.store();
    let leases = leases(&*store);
    let (_, shard) = ada(&*store);
    let epoch = epoch_of(&*store, shard).await;
    let silent = leases.beat(shard, &beat(id(1), 1, None)).await.unwrap().members[0];
    leases.beat(shard, &beat(id(2), 1, None)).await.unwrap();
    assert!(!leases.remove(shard, Epoch([7; 32]), &silent).await.unwrap());
    let alive = leases.beat(shard, &beat(id(1), 2, None)).await.unwrap();
    assert!(!leases.remove(shard, epoch, &silent).await.unwrap());
    assert!(!leases.remove(shard, epoch, &Member { id: id(3), ..silent }).await.unwrap());
    assert_eq!(members(leases, shard).await, sorted(alive.members));

    let silent = Member { beat: 2, ..silent };
    assert!(leases.remove(shard, epoch, &silent).await.unwrap());
    assert!(!leases.remove(shard, epoch, &silent).await.unwrap());
    assert_eq!(members(leases, shard).await, [Member { id: id(2), beat: 1, applied: 0 }]);
    // He was not dead: his next beat is another one than the one that was judged.
    leases.beat(shard, &beat(id(1), 3, None)).await.unwrap();
    assert!(!leases.remove(shard, epoch, &silent).await.unwrap());
    assert_eq!(members(leases, shard).await.len(), 2);
}

/// Who is released is gone, and only he; again and unknown is no mistake.
pub async fn who_is_released_is_gone(harness: &dyn Harness) {
    let store = harness.store();
    let leases = leases(&*store);
    let (_, shard) = ada(&*store);
    for n in [1, 2] {
        leases.beat(shard, &beat(id(n), 5, None)).await.unwrap();
    }
    for _ in 0..2 {
        leases.release(shard, id(1)).await.unwrap();
        assert_eq!(members(leases, shard).await, [Member { id: id(2), beat: 5, applied: 0 }]);
    }
}

/// The note is of one history of one shard, and everybody hears of it.
pub async fn a_settled_history_is_said_to_be(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let leases = leases(&*store);
    let (ada, shard) = ada(&*store);
    leases.settle(shard, Epoch([7; 32])).await.unwrap();
    assert!(!leases.members(shard).await.unwrap().settled);
    leases.settle(shard, epoch_of(&*store, shard).await).await.unwrap();
    assert!(leases.members(shard).await.unwrap().settled);
    assert!(leases.beat(shard, &beat(id(1), 1, None)).await.unwrap().settled);
    assert!(leases.barrier(shard).await.unwrap().settled);
    match store.commit(&sample::create(&ada.record(1, now)), now).await.unwrap() {
        Outcome::Done(done) => assert!(done.settled),
        other => panic!("{other:?}"),
    }
    for other in (0..store.shards()).filter(|other| *other != shard) {
        assert!(!leases.members(other).await.unwrap().settled);
    }
}

/// It has a position and makes none.
pub async fn a_barrier_is_at_the_last_entry_and_is_none(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let leases = leases(&*store);
    let (ada, shard) = ada(&*store);
    let empty = leases.barrier(shard).await.unwrap();
    assert_eq!((empty.at.position, empty.settled, empty.members), (0, false, Vec::new()));
    let at = done(&*store, &sample::create(&ada.record(1, now)), now).await;
    let member = leases.beat(shard, &beat(id(1), 3, Some(at))).await.unwrap().members;
    for _ in 0..2 {
        let barrier = leases.barrier(shard).await.unwrap();
        assert_eq!((barrier.at, &barrier.members), (at, &member));
    }
    assert_eq!(done(&*store, &sample::create(&ada.record(2, now)), now).await.position, 2);
}

/// A commit answers the members as they were when it was written, each with what it has applied.
pub async fn a_commit_tells_who_may_not_know_of_it(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let leases = leases(&*store);
    let (ada, shard) = ada(&*store);
    let committed = async |n| match store.commit(&sample::create(&ada.record(n, now)), now).await.unwrap() {
        Outcome::Done(done) => done,
        other => panic!("{other:?}"),
    };
    let first = committed(1).await;
    assert_eq!((first.settled, first.members), (false, Vec::new()));
    leases.beat(shard, &beat(id(1), 4, Some(first.at))).await.unwrap();
    leases.beat(shard, &beat(id(2), 6, None)).await.unwrap();
    let rows = vec![Member { id: id(1), beat: 4, applied: 1 }, Member { id: id(2), beat: 6, applied: 0 }];
    let second = committed(2).await;
    assert_eq!((second.at.position, second.settled, sorted(second.members)), (2, false, rows));
    leases.release(shard, id(1)).await.unwrap();
    assert_eq!(committed(3).await.members, [Member { id: id(2), beat: 6, applied: 0 }]);
}

/// It answers when there is an entry, at once or after a while, and never waits long for one.
pub async fn a_wait_ends_with_an_entry_or_at_its_limit(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let leases = leases(&*store);
    let (ada, shard) = ada(&*store);
    let from_start: Vec<_> = (0..store.shards()).map(|shard| (shard, 0)).collect();
    let wake = async |after: &[(u16, u64)], limit| {
        tokio::time::timeout(BOUND, leases.wake(after, limit)).await.unwrap().unwrap()
    };
    // Longer than that it never waits.
    assert!(LONGEST_WAKE < BOUND);
    assert_eq!(wake(&from_start, Duration::from_secs(3600)).await, []);
    assert_eq!(wake(&from_start, Duration::ZERO).await, []);
    // What concerns members is no entry.
    leases.beat(shard, &beat(id(1), 1, None)).await.unwrap();
    leases.barrier(shard).await.unwrap();
    assert_eq!(wake(&from_start, Duration::from_millis(1)).await, []);

    let records = (1..=2).map(|n| sample::creation(&ada.record(n, now))).collect();
    let commit = sample::commit(records);
    {
        // One that waits already; should the commit take longer than it may wait, the next one answers.
        let mut waiting = Box::pin(wake(&from_start, LONGEST_WAKE));
        assert!(waiting.as_mut().now_or_never().is_none());
        done(&*store, &commit, now).await;
        let answer = waiting.await;
        let answer = if answer.is_empty() { wake(&from_start, LONGEST_WAKE).await } else { answer };
        assert_eq!(answer, [(shard, 2)]);
    }
    let mut after = from_start;
    after[usize::from(shard)].1 = 1;
    assert_eq!(wake(&after, Duration::ZERO).await, [(shard, 2)]);
    after[usize::from(shard)].1 = 2;
    assert_eq!(wake(&after, Duration::from_millis(1)).await, []);
    // Nor is one that lies far ahead.
    after[usize::from(shard)].1 = 1 << 40;
    assert_eq!(wake(&after, Duration::from_millis(1)).await, []);
}

/// A shard that does not exist, and a wait for none, are misuse.
pub async fn leases_of_no_shard_are_misuse(harness: &dyn Harness) {
    fn misuse<T: std::fmt::Debug>(answer: Result<T, StoreError>) {
        assert!(matches!(answer, Err(StoreError::Misuse(_))), "{answer:?}");
    }
    let store = harness.store();
    let (leases, none) = (leases(&*store), store.shards());
    misuse(leases.beat(none, &beat(id(1), 1, None)).await);
    misuse(leases.members(none).await);
    misuse(leases.remove(none, Epoch([7; 32]), &Member { id: id(1), beat: 1, applied: 0 }).await);
    misuse(leases.release(none, id(1)).await);
    misuse(leases.settle(none, Epoch([7; 32])).await);
    misuse(leases.barrier(none).await);
    misuse(leases.wake(&[(none, 0)], Duration::ZERO).await);
    misuse(leases.wake(&[], Duration::ZERO).await);
}
