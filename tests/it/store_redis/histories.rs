//! Epochs: what was lost is noticed, and nothing that was computed from it is written.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[tokio::test]
async fn flushall_is_an_empty_store_in_a_new_history() {
    let OnRedis { server, store } = start(&[]).await;
    let record = ada().record(1, now());
    let before = create(&store, &record).await;
    server.run(&["FLUSHALL"]);
    store.check().await.unwrap();

    assert_eq!(store.get(record.id, now()).await.unwrap(), None);
    assert_eq!(store.list(&ada().list(10), now()).await.unwrap().records, []);
    let page = store.log(0, Some(before), 10).await.unwrap();
    assert_ne!(page.epoch, before.epoch);
    assert_eq!(page, LogPage { epoch: page.epoch, tail: 0, gap: true, entries: Vec::new() });

    let after = create(&store, &record).await;
    assert_eq!((after.epoch, after.position), (page.epoch, 1));
    assert_eq!(store.get(record.id, now()).await.unwrap().as_ref().map(|found| &*found.record), Some(&record));
    // Nor may somebody begin with another number of shards.
    assert!(matches!(connect(config(&server, 2)).await, Err(StoreError::Refused(_))));
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, StoreError>) {
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
}

/// What is not of a history that passed the check, and may be another store: only what notices and
/// compares it gets through.
#[tokio::test]
async fn in_a_new_history_nothing_is_read_or_written_until_it_is_checked() {
    const COMPARING: [&str; 5] = ["pepper_checks", "add_pepper_check", "remove_pepper_check", "health", "check"];
    let unchecked = |server: &RedisServer, shards| {
        RedisStore::new(config(server, shards), Arc::new(OsEntropy), Arc::new(SystemClock::new())).unwrap()
    };
    for shards in [1, 4] {
        let mut server = RedisServer::start_with(&["appendonly", "yes"]);
        let other = RedisServer::start();
        let store = unchecked(&server, shards);
        assert_eq!(store.checked(), []);
        assert_eq!(verbs_that_answer(&store).await, COMPARING);
        let flushed = |server: &mut RedisServer| server.run(&["FLUSHALL"]);
        let restarted = |server: &mut RedisServer| {
            server.kill();
            server.start_again();
        };
        let promoted = |server: &mut RedisServer| {
            server.run(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
            server.run(&["REPLICAOF", "NO", "ONE"]);
        };
        let changes: [&dyn Fn(&mut RedisServer); 3] = [&flushed, &restarted, &promoted];
        for change in changes {
            // Two: the second finds a history that somebody else has begun.
            let later = connect(config(&server, shards)).await.unwrap();
            store.check().await.unwrap();
            let checked = store.checked();
            assert_eq!(store.health(now()).await.unwrap().epochs, checked);
            assert_eq!(verbs_that_answer(&store).await.len(), VERBS);
            change(&mut server);
            for store in [&store, &*later] {
                until("it is back", async || store.health(now()).await.is_ok()).await;
                let epochs = store.health(now()).await.unwrap().epochs;
                assert!(epochs.iter().zip(&checked).all(|(is, was)| is != was), "{epochs:?} {checked:?}");
                assert_eq!(store.checked(), checked);
                assert_eq!(verbs_that_answer(store).await, COMPARING);
                assert_eq!(verbs_that_answer(store).await.len(), VERBS);
                assert_eq!(store.health(now()).await.unwrap().epochs, store.checked());
            }
        }
    }
}

/// Of the commits that are under way when everything is lost, on whatever shard, none writes.
#[tokio::test]
async fn writers_stop_at_once_and_leave_nothing_behind() {
    let OnRedis { server, store } = on_four_shards().await;
    let writers: Vec<_> = (0..8)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut written = 0_u32;
                loop {
                    let record = holder("acme", &format!("o{n}")).record(written, now());
                    match store.commit(&sample::create(&record), now()).await {
                        Ok(Outcome::Done(_)) => written += 1,
                        Err(StoreError::Unavailable(_)) => return written,
                        other => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    until("they write", async || server.command::<u64>(&["DBSIZE"]) > 200).await;
    server.run(&["FLUSHALL"]);
    for writer in writers {
        assert!(writer.await.unwrap() > 0);
    }
    assert_eq!(server.command::<u64>(&["DBSIZE"]), 0);
}

/// However checks, losses and commits fall together: what was written was written in a history that
/// passed.
#[tokio::test]
async fn commits_that_race_with_checks_are_of_a_checked_history() {
    let OnRedis { server, store } = on_four_shards().await;
    let (checked, stop) = (Arc::new(Mutex::new(store.checked())), Arc::new(AtomicBool::new(false)));
    let checker = {
        let (store, checked, stop) = (store.clone(), checked.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Acquire) {
                let _ = store.check().await;
                checked.lock().unwrap().extend(store.checked());
            }
        })
    };
    let writers = (0..8).map(|n| {
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move {
            let mut epochs = Vec::new();
            for at in 0.. {
                let record = holder("acme", &format!("o{n}")).record(at, now());
                match store.commit(&sample::create(&record), now()).await {
                    Ok(Outcome::Done(done)) => epochs.push(done.at.epoch),
                    Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
                    other => panic!("{other:?}"),
                }
                if stop.load(Ordering::Acquire) {
                    return epochs;
                }
            }
            epochs
        })
    });
    let writers: Vec<_> = writers.collect();
    for _ in 0..20 {
        let shard = |name: &str| server.command::<u64>(&["EXISTS", name]) == 1;
        until("somebody writes", async || shard("kc:{s00}:pos") || shard("kc:{s01}:pos")).await;
        server.run(&["FLUSHALL"]);
    }
    stop.store(true, Ordering::Release);
    checker.await.unwrap();
    let checked = checked.lock().unwrap().clone();
    for writer in writers {
        let epochs = writer.await.unwrap();
        assert!(!epochs.is_empty() && epochs.iter().all(|epoch| checked.contains(epoch)));
    }
    store.check().await.unwrap();
    assert_eq!(store.health(now()).await.unwrap().epochs, store.checked());
}

/// The history in which the record was read is gone; in the new one another writer has brought a
/// record to the very version that the commit expects.
#[tokio::test]
async fn a_commit_computed_in_a_lost_history_writes_nothing() {
    let OnRedis { server, store } = start(&[]).await;
    let other = connect(config(&server, 1)).await.unwrap();
    let record = ada().record(1, now());
    create(&store, &record).await;
    let read = store.get(record.id, now()).await.unwrap().unwrap();
    server.run(&["FLUSHALL"]);
    other.check().await.unwrap();
    create(&other, &record).await;

    let renamed = sample::renamed(&read.record, "computed from what was lost");
    unavailable(store.commit(&sample::update(&renamed), now()).await);
    assert_eq!(other.get(record.id, now()).await.unwrap().as_ref().map(|found| &*found.record), Some(&record));
    store.check().await.unwrap();
    done(&store, &sample::update(&renamed)).await;
}

#[tokio::test]
async fn a_restart_loses_nothing_and_is_a_new_history() {
    let OnRedis { mut server, store } = start(&["appendonly", "yes", "appendfsync", "always"]).await;
    let records: Vec<_> = (0..20).map(|n| ada().record(n, now())).collect();
    let mut last = None;
    for record in &records {
        last = Some(create(&store, record).await);
    }
    let last = last.unwrap();
    assert!(store.health(now()).await.unwrap().durability.is_durable());
    server.kill();
    server.start_again();

    until("it passes the check again", async || store.check().await.is_ok()).await;
    for record in &records {
        assert_eq!(store.get(record.id, now()).await.unwrap().as_ref().map(|found| &*found.record), Some(record));
    }
    let page = store.log(0, Some(last), 10).await.unwrap();
    assert!(page.gap && page.epoch != last.epoch);
    assert_eq!(page.tail, last.position);
    let renamed = sample::renamed(&records[0], "after the restart");
    let after = done(&store, &sample::update(&renamed)).await;
    assert_eq!((after.epoch, after.position), (page.epoch, last.position + 1));
}

#[tokio::test]
async fn a_primary_that_was_demoted_serves_nothing() {
    let OnRedis { server, store } = start(&[]).await;
    let record = ada().record(1, now());
    let before = create(&store, &record).await;
    let other = RedisServer::start();
    server.run(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    let health = store.health(now()).await.unwrap();
    assert_eq!((health.role.as_str(), health.epochs.len()), ("replica", 0));
    let new = ada().record(77, now());
    assert!(matches!(store.get(record.id, now()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.commit(&sample::create(&new), now()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.commit(&revoke(&record), now()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.list(&ada().list(5), now()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.scan(None, now()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.log(0, None, 5).await, Err(StoreError::Unavailable(_))));

    server.run(&["REPLICAOF", "NO", "ONE"]);
    store.check().await.unwrap();
    let page = store.log(0, Some(before), 10).await.unwrap();
    assert!(page.gap && page.epoch != before.epoch);
}

#[tokio::test]
async fn a_promoted_replica_is_a_new_history_with_the_old_records() {
    let OnRedis { mut server, store } = start(&[]).await;
    let replica = RedisServer::start_with(&["replicaof", &format!("127.0.0.1 {}", server.port())]);
    let record = ada().record(1, now());
    // The first replica that attaches is an epoch of its own.
    until("the replica follows", async || {
        replica.command::<String>(&["INFO", "replication"]).contains("master_link_status:up")
    })
    .await;
    store.check().await.unwrap();
    let before = create(&store, &record).await;
    let copied = || replica.command::<u64>(&["EXISTS", &record_key(record.id, 1)]) == 1;
    until("the record is on the replica", async || copied()).await;
    server.kill();
    replica.run(&["REPLICAOF", "NO", "ONE"]);

    let promoted = connect(config(&replica, 1)).await.unwrap();
    assert_eq!(promoted.get(record.id, now()).await.unwrap().as_ref().map(|found| &*found.record), Some(&record));
    let page = promoted.log(0, Some(before), 10).await.unwrap();
    assert!(page.gap && page.epoch != before.epoch && page.tail == before.position);
    done(&promoted, &sample::update(&sample::renamed(&record, "on"))).await;
}

#[tokio::test]
async fn two_processes_see_each_others_commits() {
    let OnRedis { server, store } = start(&[]).await;
    let other = connect(config(&server, 1)).await.unwrap();
    let record = ada().record(1, now());
    create(&store, &record).await;
    assert_eq!(other.get(record.id, now()).await.unwrap().as_ref().map(|found| &*found.record), Some(&record));
    let (mine, theirs) = (sample::renamed(&record, "mine"), sample::renamed(&record, "theirs"));
    done(&other, &sample::update(&theirs)).await;
    assert_eq!(store.commit(&sample::update(&mine), now()).await.unwrap(), Outcome::Conflict);
    assert_eq!(store.get(record.id, now()).await.unwrap().as_ref().map(|found| &*found.record), Some(&theirs));
}

/// Serving is a runtime per core: each has its own connections, and those of a runtime that ended
/// are in nobody's way.
#[test]
fn many_runtimes_share_one_store_and_lose_no_update() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let OnRedis { server, store } = runtime().block_on(start(&[]));
    let record = ada().record(1, now());
    runtime().block_on(create(&store, &record));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (store, id) = (store.clone(), record.id);
            std::thread::spawn(move || {
                runtime().block_on(async {
                    let mut written = 0;
                    for _ in 0..10_000 {
                        let read = store.get(id, now()).await.unwrap().unwrap();
                        let changed = sample::renamed(&read.record, "again");
                        match store.commit(&sample::update(&changed), now()).await.unwrap() {
                            Outcome::Done(_) => written += 1,
                            Outcome::Conflict => {}
                            other => panic!("{other:?}"),
                        }
                        if written == 25 {
                            return;
                        }
                    }
                    panic!("conflicts without end");
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let last = runtime().block_on(store.get(record.id, now())).unwrap().unwrap();
    assert_eq!(last.record.version, 1 + 8 * 25);
    let page = runtime().block_on(store.log(0, None, 1000)).unwrap();
    assert_eq!((page.entries.len(), page.gap), (201, false));
    // Runtimes that ended took their connections with them.
    let clients: String = server.command(&["CLIENT", "LIST"]);
    assert!(clients.lines().count() <= 1 + 2, "{clients}");
}

#[tokio::test]
async fn a_trimmed_log_is_a_gap_and_audit_keeps_about_what_it_should() {
    let server = RedisServer::start();
    let config = RedisConfig { log_max_entries: 100, audit_max_events: 100, ..config(&server, 1) };
    let store = connect(config).await.unwrap();
    let mut cursors = Vec::new();
    for n in 0..500 {
        cursors.push(create(&store, &ada().record(n, now())).await);
    }
    assert!(store.log(0, Some(cursors[0]), 10).await.unwrap().gap);
    assert!(store.log(0, None, 10).await.unwrap().gap);
    let recent = store.log(0, Some(cursors[450]), 100).await.unwrap();
    assert_eq!((recent.tail, recent.gap, recent.entries.len()), (500, false, 49));
    let length: u64 = server.command(&["XLEN", "kc:{s00}:a"]);
    assert!((100..300).contains(&length), "{length}");
    // A hole in the middle is one too.
    server.run(&["XDEL", "kc:{s00}:log", "490-0"]);
    let before = store.log(0, Some(cursors[480]), 100).await.unwrap();
    assert_eq!((before.gap, before.entries.last().unwrap().position), (false, 489));
    assert!(store.log(0, Some(cursors[488]), 100).await.unwrap().gap);
}

#[tokio::test]
async fn a_list_names_the_history_of_each_shard_that_was_looked_at() {
    let OnRedis { server, store } = on_four_shards().await;
    let mut last = Vec::new();
    for _ in 0..2 {
        let all: Vec<_> = (0..).zip(store.checked()).collect();
        assert_ne!(all, last);
        assert_eq!(store.list(&ada().list_realm(5), now()).await.unwrap().epochs, all);
        let shard = shard_of(ada().id(1).bucket(), 4);
        let of_owner = store.list(&ada().list(5), now()).await.unwrap().epochs;
        assert_eq!(of_owner, [all[usize::from(shard)]], "no record was found, and there is none");
        last = all;
        server.run(&["FLUSHALL"]);
        unavailable(store.list(&ada().list_realm(5), now()).await);
        store.check().await.unwrap();
    }
}
