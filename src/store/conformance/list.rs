//! Lists and scans: ordered, complete, whatever happens meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;

use super::sample::{self, DAY, Holder, SECOND, holder};
use super::{Harness, done, list_all, place, scan_all, sorted};
use crate::clock::Timestamp;
use crate::key::KeyRecord;
use crate::store::{Store, Write};

/// Creates `records`, in commits of one owner's and up to 100 each.
async fn create_all(store: &dyn Store, records: &[KeyRecord], now: Timestamp) {
    let mut left: Vec<_> = records.iter().collect();
    left.sort_by_key(|record| record.id.bucket());
    for one_bucket in left.chunk_by(|a, b| a.id.bucket() == b.id.bucket()) {
        for chunk in one_bucket.chunks(100) {
            let writes = chunk.iter().map(|record| sample::creation(record)).collect();
            done(store, &sample::commit(writes), now).await;
        }
    }
}

fn holders(realm: &str, count: u32) -> Vec<Holder> {
    (0..count).map(|n| holder(realm, &format!("owner-{n}"))).collect()
}

/// By (created_at, id), each record once, whatever the size of the pages; across shards too.
pub async fn lists_are_ordered_and_complete_on_every_page_size(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let holders = holders("acme", 8);
    // Created in an order that is neither that of the ids nor that of the times.
    let records: Vec<_> = (0..10)
        .flat_map(|n| holders.iter().map(move |holder| (n, holder)))
        .map(|(n, holder)| holder.record(n, now.after(Duration::from_millis(u64::from(n * 7 % 10)))))
        .collect();
    create_all(&*store, &records, now).await;
    let expected = sorted(records.clone());
    for limit in [1, 2, 7, 79, 80, 81, 500] {
        assert_eq!(list_all(&*store, &holders[0].list_realm(limit), now).await, expected, "pages of {limit}");
    }
    let own =
        |holder: &Holder| sorted(records.iter().filter(|one| one.owner.reference == holder.owner).cloned().collect());
    for holder in &holders {
        for limit in [1, 3, 10, 500] {
            assert_eq!(list_all(&*store, &holder.list(limit), now).await, own(holder), "pages of {limit}");
        }
    }
}

/// An owner's list is that of one realm, and a realm's list is that of no other, however alike
/// their names are.
pub async fn lists_are_of_one_realm_or_one_owner(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let holders = [holder("acme", "ada"), holder("acme", "ada2"), holder("acm", "eada"), holder("acme2", "ada")];
    let records: Vec<_> = holders.iter().map(|holder| holder.record(1, now)).collect();
    create_all(&*store, &records, now).await;
    for (holder, record) in holders.iter().zip(&records) {
        assert_eq!(list_all(&*store, &holder.list(10), now).await, std::slice::from_ref(record));
    }
    assert_eq!(list_all(&*store, &holders[0].list_realm(10), now).await, sorted(records[..2].to_vec()));
    assert_eq!(list_all(&*store, &holders[2].list_realm(10), now).await, records[2..3]);
    assert_eq!(list_all(&*store, &holder("nobody", "ada").list_realm(10), now).await, []);
    assert_eq!(list_all(&*store, &holder("acme", "nobody").list(10), now).await, []);
}

/// Many records with one created_at: the id decides, and no page boundary loses one.
pub async fn records_of_one_instant_are_all_listed(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let holders = holders("acme", 3);
    let records: Vec<_> = holders.iter().flat_map(|holder| (0..150).map(|n| holder.record(n, now))).collect();
    create_all(&*store, &records, now).await;
    for limit in [13, 150] {
        assert_eq!(list_all(&*store, &holders[0].list_realm(limit), now).await, sorted(records.clone()));
        assert_eq!(list_all(&*store, &holders[1].list(limit), now).await, sorted(records[150..300].to_vec()));
    }
}

/// While others create, change and let go before, between and behind, every record that existed
/// throughout is on one of the pages, once.
pub async fn concurrent_change_skips_nobody(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let (ada, bob) = (holder("acme", "ada"), holder("acme", "bob"));
    let at = move |n: u32| now.after(Duration::from_millis(u64::from(n % 10)));
    let lasting: Vec<_> = (0..60).flat_map(|n| [ada.record(n, at(n)), bob.record(n, at(n))]).collect();
    create_all(&*store, &lasting, now).await;
    let mut writers = JoinSet::new();
    for (holder, first) in [(ada.clone(), 1000), (bob, 2000)] {
        let store = store.clone();
        writers.spawn(async move {
            for n in first..first + 60 {
                let passing = holder.record(n, at(n));
                let end = now.after(Duration::from_millis(u64::from(n % 3)));
                done(&*store, &sample::create(&passing), now).await;
                let revoked = sample::revoked(&passing, now);
                let write = Write { gone_at: Some(end.after(DAY)), ..sample::change(&revoked) };
                done(&*store, &sample::commit(vec![write]), now).await;
            }
        });
    }
    let mut passes = 0;
    while passes < 3 || !writers.is_empty() {
        for (query, lasting) in [
            (ada.list_realm(7), lasting.clone()),
            (ada.list(7), lasting.iter().filter(|one| one.owner.reference == ada.owner).cloned().collect()),
        ] {
            // By a `now` at which some of those that pass have gone, and some have not.
            let seen = list_all(&*store, &query, now.after(DAY + Duration::from_millis(1))).await;
            assert!(seen.is_sorted_by_key(place), "out of order");
            let places: BTreeSet<_> = seen.iter().map(place).collect();
            assert_eq!(places.len(), seen.len(), "a record came twice");
            let missing: Vec<_> = lasting.iter().filter(|one| !places.contains(&place(one))).collect();
            assert!(missing.is_empty(), "skipped: {missing:?}");
        }
        passes += 1;
        while let Some(finished) = writers.try_join_next() {
            finished.unwrap();
        }
        tokio::task::yield_now().await;
    }
}

/// A scan shows every record of every realm, in whatever order and perhaps twice.
pub async fn a_scan_sees_every_record(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    assert_eq!(scan_all(&*store, now).await.unwrap(), []);
    let records: Vec<_> = ["acme", "other"]
        .iter()
        .flat_map(|realm| holders(realm, 4))
        .flat_map(|holder| (0..150).map(move |n| holder.record(n, now)))
        .collect();
    create_all(&*store, &records, now).await;
    let mut scanned = sorted(scan_all(&*store, now.after(SECOND)).await.unwrap());
    scanned.dedup();
    assert_eq!(scanned, sorted(records));
}
