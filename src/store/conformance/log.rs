//! The log: an entry per write, without a hole, in one history.

use super::sample::{self, holder};
use super::{Harness, done, log_from_start};
use crate::store::{Epoch, LogCursor, LogEntry, LogPage, shard_of};

/// Positions begin at 1 and grow by one a write, in the order of the commit; what is not written
/// has none.
pub async fn the_log_counts_from_one_without_holes(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let shard = shard_of(ada.bucket(), store.shards());
    let empty = log_from_start(&*store, shard).await;
    assert_eq!((empty.tail, empty.gap, empty.entries.len()), (0, false, 0));

    let records: Vec<_> = (1..=3).map(|n| ada.record(n, now)).collect();
    let first = done(&*store, &sample::create(&records[0]), now).await;
    assert_eq!(first.position, 1);
    store.commit(&sample::create(&records[0]), now).await.unwrap();
    let pair = done(&*store, &sample::commit(records[1..].iter().map(sample::creation).collect()), now).await;
    let renamed = sample::renamed(&records[1], "renamed");
    let last = done(&*store, &sample::update(&renamed), now).await;
    assert_eq!((pair.position, last.position), (3, 4));
    assert_eq!((first.epoch, pair.epoch), (last.epoch, last.epoch));

    let entry =
        |position, record: &crate::key::KeyRecord| LogEntry { position, id: record.id, version: record.version };
    let entries = vec![entry(1, &records[0]), entry(2, &records[1]), entry(3, &records[2]), entry(4, &renamed)];
    assert_eq!(log_from_start(&*store, shard).await, LogPage { epoch: last.epoch, tail: 4, gap: false, entries });
    assert_eq!(store.health(now).await.unwrap().epochs[usize::from(shard)], last.epoch);
}

/// From any position on, and never more than was asked for.
pub async fn the_log_is_read_in_parts(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let shard = shard_of(ada.bucket(), store.shards());
    let mut tail = None;
    for n in 1..=20 {
        tail = Some(done(&*store, &sample::create(&ada.record(n, now)), now).await);
    }
    let tail = tail.unwrap();
    let all = log_from_start(&*store, shard).await.entries;
    assert_eq!(all.len(), 20);
    for from in 0..=20 {
        for limit in [1, 7, 20, 100] {
            let after = LogCursor { position: from, ..tail };
            let page = store.log(shard, Some(after), limit).await.unwrap();
            let from = usize::try_from(from).unwrap();
            assert_eq!(page.entries, all[from..(from + limit).min(20)], "{limit} after {from}");
            assert_eq!((page.epoch, page.tail, page.gap), (tail.epoch, 20, false));
        }
    }
}

/// A cursor of another history, or of one that went further, is a gap: go on from the tail.
pub async fn a_foreign_or_future_cursor_is_a_gap(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let shard = shard_of(ada.bucket(), store.shards());
    let first = done(&*store, &sample::create(&ada.record(1, now)), now).await;
    let tail = done(&*store, &sample::create(&ada.record(2, now)), now).await;
    let foreign = LogCursor { epoch: Epoch([7; 32]), ..first };
    let future = LogCursor { position: tail.position + 1, ..tail };
    for cursor in [foreign, LogCursor { position: 0, ..foreign }, future] {
        let page = store.log(shard, Some(cursor), 100).await.unwrap();
        assert_eq!(page, LogPage { epoch: tail.epoch, tail: 2, gap: true, entries: Vec::new() }, "{cursor:?}");
    }
    let after_gap = store.log(shard, Some(tail), 100).await.unwrap();
    assert_eq!(after_gap, LogPage { epoch: tail.epoch, tail: 2, gap: false, entries: Vec::new() });
}
