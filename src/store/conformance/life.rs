//! The end of a record: past its time it is absent, whatever the store still holds.

use std::time::Duration;

use super::sample::{self, DAY, SECOND, holder};
use super::{Harness, done, list_all, scan_all};
use crate::key::KeyRecord;
use crate::store::{Commit, Expect, Outcome, Write};

fn written(record: &KeyRecord, gone_at: crate::clock::Timestamp) -> Write {
    Write { gone_at: Some(gone_at), ..sample::creation(record) }
}

/// From its end on, and not before it, a record is in no answer: get, list, scan, compare, guard.
/// A page of a list holds others in its place.
pub async fn a_record_past_its_time_is_absent_everywhere(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let end = now.after(10 * SECOND);
    let records: Vec<_> = (0..60).map(|n| ada.record(n, now.after(Duration::from_millis(n.into())))).collect();
    let (passing, lasting): (Vec<_>, Vec<_>) =
        records.iter().cloned().partition(|one| one.created_at.as_millis() % 10 != 0);
    let writes = records
        .iter()
        .map(|record| if lasting.contains(record) { sample::creation(record) } else { written(record, end) })
        .collect();
    done(&*store, &sample::commit(writes), now).await;

    let before = end.as_millis() - 1;
    let before = crate::clock::Timestamp::from_millis(before);
    assert_eq!(list_all(&*store, &ada.list(7), before).await.len(), records.len());
    assert_eq!(store.get(passing[0].id, before).await.unwrap().as_ref().map(|found| &*found.record), Some(&passing[0]));
    for limit in [1, 2, 100] {
        assert_eq!(list_all(&*store, &ada.list(limit), end).await, lasting);
        assert_eq!(list_all(&*store, &ada.list_realm(limit), end).await, lasting);
    }
    for record in &passing {
        assert_eq!(store.get(record.id, end).await.unwrap(), None);
    }
    let scanned = scan_all(&*store, end).await.unwrap();
    assert!(scanned.iter().all(|record| lasting.contains(record)), "a scan that shows what has gone");
    let changed = sample::renamed(&passing[0], "too late");
    assert_eq!(store.commit(&sample::update(&changed), end).await.unwrap(), Outcome::Conflict);
    let room = u32::try_from(lasting.len()).unwrap() + 1;
    done(&*store, &Commit { guard: Some(ada.guard(room)), ..sample::create(&ada.record(100, end)) }, end).await;
}

/// An id whose record has gone can be written anew, and is listed once, where it belongs now.
pub async fn an_id_past_its_time_can_be_written_anew(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let end = now.after(10 * SECOND);
    let (first, neighbour) = (ada.record(1, now), ada.record(2, now.after(SECOND)));
    done(&*store, &sample::commit(vec![written(&first, end), sample::creation(&neighbour)]), now).await;
    let anew = KeyRecord { created_at: end, ..first.clone() };
    assert_eq!(store.commit(&sample::create(&anew), now).await.unwrap(), Outcome::Conflict, "it is still there");
    let stale = sample::commit(vec![Write { expects: Expect::Version(1), ..sample::creation(&anew) }]);
    assert_eq!(store.commit(&stale, end).await.unwrap(), Outcome::Conflict, "its version went with it");
    done(&*store, &sample::create(&anew), end).await;

    assert_eq!(store.get(anew.id, end).await.unwrap().as_ref().map(|found| &*found.record), Some(&anew));
    for limit in [1, 10] {
        assert_eq!(list_all(&*store, &ada.list(limit), end).await, [neighbour.clone(), anew.clone()]);
        assert_eq!(list_all(&*store, &ada.list_realm(limit), end).await, [neighbour.clone(), anew.clone()]);
    }
    let scanned = scan_all(&*store, end.after(DAY)).await.unwrap();
    assert!(scanned.contains(&anew) && !scanned.contains(&first));
}

/// Each write sets the end: later, earlier, or none.
pub async fn a_record_lives_as_long_as_its_last_write_says(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let mut record = ada.record(1, now);
    done(&*store, &sample::commit(vec![written(&record, now.after(10 * SECOND))]), now).await;
    for (gone_at, then, there) in [
        (Some(now.after(DAY)), now.after(20 * SECOND), true),
        (None, now.after(2 * DAY), true),
        (Some(now.after(3 * DAY)), now.after(3 * DAY), false),
    ] {
        let changed = sample::renamed(&record, "changed");
        let write = Write { gone_at, ..sample::change(&changed) };
        done(&*store, &sample::commit(vec![write]), now).await;
        assert_eq!(store.get(record.id, then).await.unwrap().is_some(), there, "{gone_at:?}");
        assert_eq!(list_all(&*store, &ada.list(10), then).await.len(), usize::from(there), "{gone_at:?}");
        record = changed;
    }
}
