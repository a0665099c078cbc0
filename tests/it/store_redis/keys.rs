//! What lies in Redis: indexes, members without a record, times to live.

use super::*;

async fn zcard(server: &RedisServer, pattern: &str) -> u64 {
    let keys: Vec<String> = server.command(&["KEYS", pattern]);
    keys.iter().map(|key| server.command::<u64>(&["ZCARD", key])).sum()
}

/// However many members without a record lie in the way, a call's work is bounded, nothing is
/// skipped, and the members are gone afterwards.
#[tokio::test]
async fn ghosts_are_skipped_and_swept() {
    let OnRedis { server, store } = start(&[]).await;
    let created = now();
    let at = |n: u32| created.after(Duration::from_millis(u64::from(n / 100)));
    let records: Vec<_> = (0..3000).map(|n| ada().record(n, at(n))).collect();
    for chunk in records.chunks(250) {
        done(&store, &sample::commit(chunk.iter().map(sample::creation).collect())).await;
    }
    let lasting = [records[1500].clone(), records[2999].clone()];
    let gone = records.iter().filter(|record| !lasting.contains(record));
    let keys: Vec<_> = gone.map(|record| record_key(record.id, 1)).collect();
    for chunk in keys.chunks(500) {
        let words: Vec<_> = std::iter::once("DEL").chain(chunk.iter().map(String::as_str)).collect();
        server.run(&words);
    }
    for query in [ada().list_realm(5), ada().list(5)] {
        let first = store.list(&query, now()).await.unwrap();
        assert!(first.records.len() < 2 && first.next.is_some(), "one call looked at everything");
        let mut seen = first.records;
        let mut after = first.next;
        while after.is_some() {
            let page = store.list(&ListQuery { after, ..query.clone() }, now()).await.unwrap();
            seen.extend(page.records);
            after = page.next;
        }
        assert_eq!(seen, lasting);
    }
    for index in ["kc:{s00}:r:*", "kc:{s00}:o:*", "kc:{s00}:l:*"] {
        assert_eq!(zcard(&server, index).await, 2, "{index}");
    }
}

/// A realm is merged out of every shard, also where one owner has nearly all of it.
#[tokio::test]
async fn a_realm_on_256_shards_is_listed_in_order() {
    let server = RedisServer::start();
    let store = connect(config(&server, 256)).await.unwrap();
    let created = now();
    let at = |n: u32| created.after(Duration::from_millis(u64::from(n * 7919 % 400)));
    let mut records: Vec<_> =
        (0..400).map(|n| holder("acme", &format!("o{}", if n % 3 == 0 { n } else { 0 })).record(n, at(n))).collect();
    for record in &records {
        create(&store, record).await;
    }
    records.sort_by_key(|record| (record.created_at, record.id));
    for limit in [23, 100, 400, 1000] {
        let mut query = ada().list_realm(limit);
        let mut seen = Vec::new();
        loop {
            let page = store.list(&query, now()).await.unwrap();
            assert!(page.records.len() <= limit);
            seen.extend(page.records);
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        assert_eq!(seen, records, "pages of {limit}");
    }
}

/// An index that nobody lists does not keep the members of records that went by themselves.
#[tokio::test]
async fn indexes_do_not_grow_for_ever() {
    let OnRedis { server, store } = start(&[]).await;
    let commits = async |from: u32, to: u32| {
        let records = (from..to).map(|n| ada().record(n, now()));
        done(&store, &sample::commit(records.map(|record| sample::creation(&record)).collect())).await;
    };
    commits(0, 100).await;
    for n in 0..100 {
        server.run(&["DEL", &record_key(ada().id(n), 1)]);
    }
    commits(100, 300).await;
    commits(300, 500).await;
    // Each of 400 looked at two others of at most 500; that more than 50 of 100 were missed is not
    // to be expected in the lifetime of the universe.
    for index in ["kc:{s00}:r:*", "kc:{s00}:o:*"] {
        let members = zcard(&server, index).await;
        assert!((400..450).contains(&members), "{index}: {members}");
    }
}

#[tokio::test]
async fn redis_collects_what_is_past_its_time_and_nothing_before() {
    let OnRedis { server, store } = start(&[]).await;
    let pttl = |pattern: &str| {
        let keys: Vec<String> = server.command(&["KEYS", pattern]);
        server.command::<i64>(&["PTTL", &keys[0]])
    };
    let hours = |n: u64| i64::try_from(n * 3_600_000).unwrap();
    let written = |n: u32, hours: Option<u64>| {
        let end = hours.map(|hours| now().after(Duration::from_secs(hours * 3600)));
        let record = KeyRecord { expires_at: end, ..ada().record(n, now()) };
        sample::commit(vec![Write { gone_at: end, ..sample::creation(&record) }])
    };
    let close = |ttl: i64, hours: i64| (hours - 60_000..=hours).contains(&ttl);
    let indexes = ["kc:{s00}:o:*", "kc:{s00}:r:*", "kc:{s00}:l:*"];

    done(&store, &written(1, Some(5))).await;
    assert!(close(pttl(&record_key(ada().id(1), 1)), hours(6)));
    assert!(indexes.iter().all(|index| close(pttl(index), hours(6))));
    done(&store, &written(2, Some(2))).await;
    assert!(indexes.iter().all(|index| close(pttl(index), hours(6))), "a shorter life shortens nobody's");
    done(&store, &written(3, Some(9))).await;
    assert!(indexes.iter().all(|index| close(pttl(index), hours(10))));
    done(&store, &written(4, None)).await;
    assert_eq!(pttl(&record_key(ada().id(4), 1)), -1);
    assert!(indexes.iter().all(|index| pttl(index) == -1), "one without an end is enough");
    done(&store, &written(5, Some(20))).await;
    assert!(indexes.iter().all(|index| pttl(index) == -1));
    // The living are known by their ends, so theirs is exact again once the endless one is revoked.
    done(&store, &revoke(&ada().record(4, now()))).await;
    assert!(close(pttl("kc:{s00}:l:*"), hours(21)));
    let endless = store.get(ada().id(4), now()).await.unwrap().unwrap();
    let again = sample::revoked(&endless.record, now());
    let write = Write { gone_at: Some(now().after(SECOND)), ..sample::change(&again) };
    done(&store, &sample::commit(vec![write])).await;
    assert!(close(pttl(&record_key(ada().id(4), 1)), hours(1) + 1000));
}

/// Somebody else's key in a place of ours fails a commit as a whole.
#[tokio::test]
async fn a_foreign_key_in_our_place_leaves_no_half_commit() {
    for place in ["pos", "log", "a", "o", "r", "l"] {
        let OnRedis { server, store } = start(&[]).await;
        let record = ada().record(1, now());
        create(&store, &record).await;
        let keys: Vec<String> = server.command(&["KEYS", &format!("kc:{{s00}}:{place}*")]);
        let key = keys.iter().find(|key| key.ends_with(place) || key.contains(&format!(":{place}:"))).unwrap();
        server.run(&["SET", key, "foreign"]);
        let second = ada().record(2, now());
        let answer = store.commit(&sample::create(&second), now()).await;
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{place}: {answer:?}");
        assert_eq!(store.get(second.id, now()).await.unwrap(), None, "{place}");
    }
}
