//! Leases as only a server can show them: emptied, full, forgetful, restarted, damaged; and their term.

use keyclasp::store::redis::{DEFAULT_LEASE, Wait};

use super::*;

const ME: MemberId = MemberId([0xa5; 16]);

const fn beat(number: u64, applied: Option<LogCursor>) -> Beat {
    Beat { member: ME, number, applied, confirmed: true }
}

/// Nothing of a history that was lost counts in the next one: not the note that it is settled, not what
/// was applied of it, not the right to remove somebody.
#[tokio::test]
async fn a_new_history_begins_without_the_marks_of_the_old_one() {
    let OnRedis { server, store } = start(&[]).await;
    let before = create(&store, &ada().record(1, now())).await;
    let member = store.beat(0, &beat(1, Some(before))).await.unwrap().members[0];
    assert_eq!(member, Member { id: ME, beat: 1, applied: 1 });
    store.settle(0, before.epoch).await.unwrap();
    assert!(store.members(0).await.unwrap().settled);
    let rows = server.command::<Vec<String>>(&["HGETALL", "kc:{s00}:m"]);
    assert_eq!(rows, [ME.to_string(), "1:1".to_owned()]);
    // As after a crash: the same data, but the node has another name.
    let other = RedisServer::start();
    server.run(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    server.run(&["REPLICAOF", "NO", "ONE"]);

    let refused = [
        store.beat(0, &beat(2, None)).await.map(drop),
        store.members(0).await.map(drop),
        store.remove(0, before.epoch, &member).await.map(drop),
        store.release(0, ME).await,
        store.settle(0, before.epoch).await,
        store.barrier(0).await.map(drop),
    ];
    assert!(refused.iter().all(|answer| matches!(answer, Err(StoreError::Unavailable(_)))), "{refused:?}");
    assert_eq!(server.command::<Vec<String>>(&["HGETALL", "kc:{s00}:m"]), rows);

    store.check().await.unwrap();
    let after = store.beat(0, &beat(2, Some(LogCursor { position: 9, ..before }))).await.unwrap();
    assert!(after.epoch != before.epoch && !after.settled);
    assert_eq!(after.members, [Member { id: ME, beat: 2, applied: 1 }]);
    assert!(!store.remove(0, before.epoch, &after.members[0]).await.unwrap());
    store.settle(0, before.epoch).await.unwrap();
    assert!(!store.members(0).await.unwrap().settled);
    store.settle(0, after.epoch).await.unwrap();
    assert!(store.members(0).await.unwrap().settled);

    server.run(&["FLUSHALL"]);
    store.check().await.unwrap();
    let empty = store.members(0).await.unwrap();
    assert_eq!((empty.settled, empty.members), (false, Vec::new()));
}

#[tokio::test]
async fn leases_go_on_when_the_server_is_full_and_has_forgotten_its_scripts() {
    let OnRedis { server, store } = start(&[]).await;
    let record = ada().record(1, now());
    let at = create(&store, &record).await;
    server.run(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let refused = store.commit(&sample::create(&ada().record(2, now())), now()).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    for number in 1..=2 {
        server.run(&["SCRIPT", "FLUSH"]);
        let other = MemberId([number; 16]);
        store.beat(0, &Beat { confirmed: false, member: other, ..beat(1, None) }).await.unwrap();
        let members = store.beat(0, &beat(number.into(), Some(at))).await.unwrap().members;
        assert_eq!(members.len(), 2);
        assert!(store.remove(0, at.epoch, &Member { id: other, beat: 1, applied: 0 }).await.unwrap());
        store.settle(0, at.epoch).await.unwrap();
        assert_eq!(store.barrier(0).await.unwrap().at, at);
        store.release(0, ME).await.unwrap();
        assert_eq!(store.members(0).await.unwrap().members, []);
    }
    done(&store, &revoke(&record)).await;
}

/// Each time it is written, whatever it says: a WAIT behind it has to be about it.
#[tokio::test]
async fn a_beat_is_written_when_it_says_nothing_new() {
    let OnRedis { server, store } = start(&["appendonly", "yes"]).await;
    store.beat(0, &beat(7, None)).await.unwrap();
    let written = || -> u64 {
        let info: String = server.command(&["INFO", "persistence"]);
        let size = info.lines().find_map(|line| line.strip_prefix("aof_current_size:")).unwrap();
        size.trim().parse().unwrap()
    };
    for number in [7, 6, 7] {
        let before = written();
        store.beat(0, &beat(number, None)).await.unwrap();
        until("it reached the file", async || written() > before).await;
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named_and_kept() {
    let OnRedis { server, store } = start(&[]).await;
    for (name, row) in [(ME.to_string(), "seven"), ("me".to_owned(), "7:0")] {
        server.run(&["HSET", "kc:{s00}:m", &name, row]);
        let answers = [
            store.beat(0, &beat(1, None)).await.map(drop),
            store.members(0).await.map(drop),
            store.barrier(0).await.map(drop),
        ];
        for answer in answers {
            match answer {
                Err(StoreError::Unreadable { what, .. }) => assert!(what.contains(&name), "{what}"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(server.command::<String>(&["HGET", "kc:{s00}:m", &name]), row);
        server.run(&["DEL", "kc:{s00}:m"]);
    }
}

/// Who waits for entries is in nobody's way.
#[tokio::test]
async fn others_do_not_wait_behind_a_wait() {
    let OnRedis { server: _server, store } = on_four_shards().await;
    let store = &store;
    let waiting = async { while store.wake(&[(1, 0), (3, 0)], Duration::from_secs(1)).await.unwrap().is_empty() {} };
    let meanwhile = async {
        let record = (0..).map(|n| holder("acme", &format!("o{n}")).record(1, now()));
        let record = record.into_iter().find(|record| shard_of(record.id.bucket(), 4) == 3).unwrap();
        for number in 1..200 {
            store.beat(3, &beat(number, None)).await.unwrap();
            assert_eq!(store.get(record.id, now()).await.unwrap(), None);
        }
        create(store, &record).await;
    };
    tokio::join!(waiting, meanwhile);
}

fn refused<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(StoreError::Refused(text)) => text,
        other => panic!("{other:?}"),
    }
}

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn the_term_is_stored_once_and_is_the_same_for_everybody() {
    let server = RedisServer::start();
    let with = |lease| RedisConfig { lease, ..config(&server, 4) };
    let unchecked = |config| RedisStore::new(config, Arc::new(OsEntropy), Arc::new(SystemClock::new())).unwrap();
    assert_eq!(unchecked(with(None)).term(), DEFAULT_LEASE);
    assert_eq!(unchecked(with(Some(SHORT))).term(), SHORT);

    assert_eq!(connect(with(Some(SHORT))).await.unwrap().term(), SHORT);
    assert_eq!(server.command::<String>(&["GET", "kc:{s03}:lease"]), "300");
    assert_eq!(connect(with(None)).await.unwrap().term(), SHORT);
    let text = refused(connect(with(Some(Duration::from_secs(5)))).await);
    for part in ["fence.lease = 300ms", "says 5s", "fence.lease = \"300ms\"", "keyclasp store set-lease"] {
        assert!(text.contains(part), "{text}");
    }
    // One that was made before there were terms, or whose first check did not come to its end.
    server.run(&["DEL", "kc:{s02}:lease"]);
    assert_eq!(connect(with(None)).await.unwrap().term(), SHORT);
    assert_eq!(server.command::<String>(&["GET", "kc:{s02}:lease"]), "300");
    server.run(&["SET", "kc:{s02}:lease", "2000"]);
    for lease in [None, Some(SHORT)] {
        let text = refused(connect(with(lease)).await);
        assert!(text.contains("shard 2 2s") && text.contains("repeat `keyclasp store set-lease`"), "{text}");
    }
    server.run(&["FLUSHALL"]);
    assert_eq!(connect(with(None)).await.unwrap().term(), DEFAULT_LEASE);
}

/// It mends terms that differ, takes out who is silent, and begins new histories.
#[tokio::test]
async fn the_term_is_changed_when_nobody_runs() {
    let server = RedisServer::start();
    let with = |lease| RedisConfig { lease, ..config(&server, 4) };
    let running = connect(with(Some(SHORT))).await.unwrap();
    let before = running.checked();
    running.beat(1, &beat(1, None)).await.unwrap();
    server.run(&["SET", "kc:{s02}:lease", "400"]);
    let (long, clock) = (Duration::from_secs(2), SystemClock::new());
    let tool = RedisStore::new(with(None), Arc::new(OsEntropy), Arc::new(SystemClock::new())).unwrap();
    let began = clock.elapsed();
    tool.set_lease(long).await.unwrap();
    assert!(clock.elapsed() - began >= Duration::from_millis(400), "a lease may still have run");
    for shard in 0..4 {
        assert_eq!(server.command::<String>(&["GET", &format!("kc:{{s{shard:02x}}}:lease")]), "2000");
    }
    assert_eq!(server.command::<u64>(&["EXISTS", "kc:{s01}:m"]), 0);
    let after = running.health(now()).await.unwrap().epochs;
    assert!(after.iter().zip(&before).all(|(is, was)| is != was));
    for shard in 0..4 {
        let answer = running.beat(shard, &beat(2, None)).await;
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    }
    assert!(refused(running.check().await).contains("says 300ms"));
    assert_eq!(connect(with(None)).await.unwrap().term(), long);
    // Settled, and nobody there: nothing to wait for.
    let store = connect(with(None)).await.unwrap();
    for (shard, epoch) in (0..).zip(store.checked()) {
        store.settle(shard, epoch).await.unwrap();
    }
    tool.set_lease(SHORT).await.unwrap();
    assert_eq!(connect(with(None)).await.unwrap().term(), SHORT);
}

#[tokio::test]
async fn the_term_is_not_changed_while_somebody_runs() {
    let server = RedisServer::start();
    let with = |lease| RedisConfig { lease, ..config(&server, 4) };
    let running = connect(with(Some(SHORT))).await.unwrap();
    let before = running.checked();
    let stop = tokio_util::sync::CancellationToken::new();
    let beating = {
        let (running, stop) = (running.clone(), stop.clone());
        tokio::spawn(async move {
            for number in 1.. {
                running.beat(2, &beat(number, None)).await.unwrap();
                if stop.run_until_cancelled(tokio::time::sleep(SHORT / 30)).await.is_none() {
                    break;
                }
            }
        })
    };
    let tool = RedisStore::new(with(None), Arc::new(OsEntropy), Arc::new(SystemClock::new())).unwrap();
    let text = refused(tool.set_lease(Duration::from_secs(2)).await);
    assert!(text.contains("a replica is running") && text.contains("stop all of them first"), "{text}");
    stop.cancel();
    beating.await.unwrap();
    assert_eq!(running.health(now()).await.unwrap().epochs, before);
    assert_eq!(connect(with(None)).await.unwrap().term(), SHORT);
}

/// How many replicas confirm a change is stored as well. Another number is refused while somebody goes by the one
/// before, and is taken once nobody does: then whoever went by it is out.
#[tokio::test]
async fn how_many_replicas_confirm_is_the_same_for_everybody() {
    let server = RedisServer::start();
    let of = |replicas, wait| {
        let config = RedisConfig { lease: Some(SHORT), replicas, wait, ..config(&server, 4) };
        RedisStore::new(config, Arc::new(OsEntropy), Arc::new(SystemClock::new())).unwrap()
    };
    let unconfirmed = |number| Beat { confirmed: false, ..beat(number, None) };
    let stored = |shard| server.command::<String>(&["GET", &format!("kc:{{s{shard:02x}}}:confirm")]);
    let (none, one) = (of(0, Wait::Majority), of(1, Wait::All));
    one.check().await.unwrap();
    none.check().await.unwrap();
    assert_eq!((stored(0), stored(3)), ("0".to_owned(), "0".to_owned()), "nobody was there");
    for shard in 0..4 {
        assert!(one.members(shard).await.is_err(), "another history has begun");
        none.beat(shard, &unconfirmed(1)).await.unwrap();
    }

    // Whether who has a row lives is not known yet; then it is.
    let waiting = one.check().await;
    assert!(matches!(&waiting, Err(StoreError::Unavailable(text)) if text.contains("waiting until")), "{waiting:?}");
    none.beat(0, &unconfirmed(2)).await.unwrap();
    let text = refused(one.check().await);
    for part in ["confirmed by 0 of", "says 1", "store.replicas and store.wait", "stop all of them first"] {
        assert!(text.contains(part), "{text}");
    }
    let tool = of(1, Wait::All);
    let live = async {
        for number in 3.. {
            none.beat(0, &unconfirmed(number)).await.unwrap();
            tokio::time::sleep(SHORT / 30).await;
        }
    };
    tokio::select! {
        () = live => {}
        answer = tool.set_lease(Duration::from_secs(2)) => assert!(refused(answer).contains("confirmed by 0 of")),
    }
    // The same number by another way.
    of(1, Wait::Nodes(1)).check().await.unwrap();
    assert_eq!((stored(0), none.members(0).await.unwrap().members.len()), ("0".to_owned(), 1));

    // It falls silent.
    let (clock, began) = (SystemClock::new(), none.members(0).await.unwrap());
    until("it counts as silent", async || one.check().await.is_ok()).await;
    assert!(clock.elapsed() >= SHORT, "a lease may still have run");
    assert_eq!((stored(0), stored(3)), ("1".to_owned(), "1".to_owned()));
    assert!(one.members(0).await.unwrap().members.is_empty() && one.checked()[0] != began.epoch);
    for shard in 0..4 {
        assert!(none.beat(shard, &unconfirmed(1000)).await.is_err());
        one.beat(shard, &unconfirmed(1)).await.unwrap();
    }
    assert!(matches!(none.check().await, Err(StoreError::Unavailable(_))));
    one.beat(0, &unconfirmed(2)).await.unwrap();
    assert!(refused(none.check().await).contains("confirmed by 1 of"));
}

#[tokio::test]
async fn a_glance_asks_for_one_shard_and_a_call_tells_of_the_others() {
    let OnRedis { server, store } = on_four_shards().await;
    let scripts = || -> u64 {
        let stats: String = server.command(&["INFO", "commandstats"]);
        let calls = stats
            .lines()
            .filter(|line| line.starts_with("cmdstat_evalsha:"))
            .map(|line| line.split(['=', ',']).nth(1).unwrap().parse::<u64>().unwrap());
        calls.sum()
    };
    let health = store.health(now()).await.unwrap();
    let before = scripts();
    let glance = store.glance().await.unwrap();
    assert_eq!(scripts(), before + 1);
    assert_eq!((glance.epochs, glance.role), (health.epochs[..1].to_vec(), health.role));
    server.run(&["DEL", "kc:{s03}:epoch"]);
    assert!(store.beat(0, &beat(1, None)).await.is_ok());
    assert!(tokio::time::timeout(Duration::ZERO, store.changed()).await.is_err());
    assert!(store.beat(3, &beat(1, None)).await.is_err());
    store.changed().await;
}
