//! The audit log: what the commits wrote, in their order.

use super::sample::{self, SECOND, holder};
use super::{Harness, audit_all, done};
use crate::clock::Timestamp;
use crate::key::{Action, Actor, Event, KeyRecord, OwnerKind, OwnerRef, Realm};
use crate::store::{AuditCursor, AuditFilter, AuditQuery, Commit, Store, shard_of};

fn query(shard: u16, newest_first: bool, limit: usize) -> AuditQuery {
    AuditQuery { shard, after: None, newest_first, filter: AuditFilter::default(), limit }
}

/// Commits of one, two, three, … events, and what the log must hold of them.
async fn history(store: &dyn Store, commits: u32, now: Timestamp) -> (u16, Vec<(AuditCursor, Event)>) {
    let ada = holder("acme", "ada");
    let mut expected = Vec::new();
    for n in 0..commits {
        let records: Vec<_> = (0..=n).map(|one| ada.record(n * 100 + one, now)).collect();
        let events: Vec<_> = records.iter().map(|record| sample::event(record, Action::Created)).collect();
        let commit = Commit { events, ..sample::commit(records.iter().map(sample::creation).collect()) };
        let position = done(store, &commit, now).await.position;
        expected.extend((0..).zip(commit.events).map(|(index, event)| (AuditCursor { position, index }, event)));
    }
    (shard_of(ada.bucket(), store.shards()), expected)
}

/// Oldest first or newest first, by position and then by index within the commit.
pub async fn audit_is_ordered_in_both_directions(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let (shard, mut expected) = history(&*store, 6, now).await;
    assert_eq!(audit_all(&*store, &query(shard, false, 100)).await, expected);
    expected.reverse();
    assert_eq!(audit_all(&*store, &query(shard, true, 100)).await, expected);
}

/// All that is given must hold; what is not given does not matter.
pub async fn audit_filters_by_everything_given(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let (ada, shards) = (holder("acme", "ada"), store.shards());
    let shard = shard_of(ada.bucket(), shards);
    // Another realm's owner whose keys lie in the same shard.
    let other = (0..).map(|n| holder("other", &format!("o{n}"))).find(|one| shard_of(one.bucket(), shards) == shard);
    let other = other.unwrap();
    let mut all = Vec::new();
    let mut write = async |record: &KeyRecord, action, actor: &str, at: Timestamp| {
        let event = Event { at, actor: Actor::parse(actor).unwrap(), ..sample::event(record, action) };
        let write = if action == Action::Created { sample::creation(record) } else { sample::change(record) };
        done(&*store, &Commit { events: vec![event.clone()], ..sample::commit(vec![write]) }, now).await;
        all.push(event);
    };
    let (first, second, third) = (ada.record(1, now), ada.record(2, now), other.record(1, now));
    write(&first, Action::Created, "issuer", now).await;
    write(&second, Action::Created, "admin", now.after(SECOND)).await;
    write(&third, Action::Created, "issuer", now.after(2 * SECOND)).await;
    write(&sample::renamed(&first, "x"), Action::Updated, "admin", now.after(3 * SECOND)).await;
    write(&sample::revoked(&second, now), Action::Revoked, "issuer", now.after(4 * SECOND)).await;

    let realm = |name: &str| Realm::parse(name).unwrap();
    let actor = |name: &str| Some(Actor::parse(name).unwrap());
    let none = AuditFilter::default;
    let cases = [
        (none(), vec![0, 1, 2, 3, 4]),
        (AuditFilter { realms: Some(vec![realm("acme")]), ..none() }, vec![0, 1, 3, 4]),
        (AuditFilter { realms: Some(vec![realm("x"), realm("other")]), ..none() }, vec![2]),
        (AuditFilter { realms: Some(vec![]), ..none() }, vec![]),
        (AuditFilter { key_id: Some(first.id), ..none() }, vec![0, 3]),
        (AuditFilter { owner: Some(other.owner.clone()), ..none() }, vec![2]),
        (AuditFilter { owner: Some(OwnerRef::parse(OwnerKind::Client, "ada").unwrap()), ..none() }, vec![]),
        (AuditFilter { actor: actor("admin"), ..none() }, vec![1, 3]),
        (AuditFilter { action: Some(Action::Created), ..none() }, vec![0, 1, 2]),
        (AuditFilter { since: Some(now.after(SECOND)), before: Some(now.after(3 * SECOND)), ..none() }, vec![1, 2]),
        (AuditFilter { actor: actor("issuer"), action: Some(Action::Revoked), ..none() }, vec![4]),
        (AuditFilter { actor: actor("admin"), action: Some(Action::Revoked), ..none() }, vec![]),
    ];
    for (filter, expected) in cases {
        for newest_first in [false, true] {
            for limit in [1, 100] {
                let query = AuditQuery { filter: filter.clone(), ..query(shard, newest_first, limit) };
                let mut found: Vec<_> = audit_all(&*store, &query).await.into_iter().map(|(_, event)| event).collect();
                if newest_first {
                    found.reverse();
                }
                let expected: Vec<_> = expected.iter().map(|&at| all[at].clone()).collect();
                assert_eq!(found, expected, "{query:?}");
            }
        }
    }
}

/// Pages of any size join without a hole or a double, also between the events of one commit.
pub async fn audit_is_paged(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let (shard, expected) = history(&*store, 7, now).await;
    let reversed: Vec<_> = expected.iter().rev().cloned().collect();
    for limit in [1, 2, 3, 27, 28, 29] {
        assert_eq!(audit_all(&*store, &query(shard, false, limit)).await, expected, "pages of {limit}");
        assert_eq!(audit_all(&*store, &query(shard, true, limit)).await, reversed, "pages of {limit}");
    }
    for (at, (cursor, _)) in expected.iter().enumerate() {
        let after = AuditQuery { after: Some(*cursor), ..query(shard, false, 100) };
        assert_eq!(audit_all(&*store, &after).await, expected[at + 1..]);
        let before = AuditQuery { newest_first: true, ..after };
        assert_eq!(audit_all(&*store, &before).await, reversed[reversed.len() - at..]);
    }
}
