//! A primary with a replica that has to confirm what is written.

use keyclasp::store::redis::Wait;
use keyclasp::store::{Done, Replication};

use super::*;
use crate::support::redis::Replicated;

/// A store on a primary, and a replica that follows it.
struct WithReplica {
    servers: Replicated,
    store: Arc<RedisStore>,
}

async fn start_with(shards: u16) -> WithReplica {
    let servers = Replicated::start();
    let config = RedisConfig { replicas: 1, wait: Wait::Majority, ..config(&servers.primary, shards) };
    let store = connect(config).await.unwrap();
    WithReplica { servers, store }
}

#[async_trait]
impl Harness for WithReplica {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn now(&self) -> Timestamp {
        SystemClock::new().now()
    }

    async fn plant(&self, id: KeyId, bytes: &[u8]) {
        self.servers.primary.set(&record_key(id, self.store.shards()), bytes);
    }
}

async fn on_four_shards() -> WithReplica {
    start_with(4).await
}

keyclasp::store_conformance!(leases on_four_shards);

const fn beat(number: u64, confirmed: bool) -> Beat {
    Beat { member: MemberId([1; 16]), number, applied: None, confirmed }
}

fn waits(server: &RedisServer) -> u64 {
    let stats: String = server.command(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_wait:calls="));
    line.and_then(|line| line.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
}

/// What is confirmed has been asked for, each time, and nothing else has.
#[tokio::test]
async fn what_has_to_last_is_on_the_replica_when_it_is_answered() {
    let WithReplica { servers, store } = start_with(1).await;
    let Replicated { primary, replica } = &servers;
    let scripts = async |n: u32| {
        store.beat(0, &beat(u64::from(n) * 2, true)).await.unwrap();
        store.barrier(0).await.unwrap();
        create(&store, &ada().record(n, now())).await
    };
    // The first time, each script is sent twice: the server does not know it.
    scripts(1).await;
    for n in 2..20 {
        let before = waits(primary);
        let at = scripts(n).await;
        assert_eq!(waits(primary), before + 3);
        assert_eq!(replica.command::<u64>(&["GET", "kc:{s00}:pos"]), at.position);
        assert_eq!(replica.command::<u64>(&["EXISTS", &record_key(ada().id(n), 1)]), 1);
        let number = u64::from(n) * 2;
        let row: String = replica.command(&["HGET", "kc:{s00}:m", &MemberId([1; 16]).to_string()]);
        assert_eq!(row, format!("{number}:0"));
        assert_eq!(replica.command::<u64>(&["GET", "kc:{s00}:barrier"]), u64::from(n));

        store.beat(0, &beat(number + 1, false)).await.unwrap();
        store.settle(0, at.epoch).await.unwrap();
        store.get(ada().id(n), now()).await.unwrap();
        store.members(0).await.unwrap();
        assert_eq!(waits(primary), before + 3);
    }
}

/// Without its replica a primary confirms nothing, says so in bounded time, and answers reads.
#[tokio::test]
async fn what_no_replica_confirms_is_not_answered_ok() {
    let WithReplica { servers, store } = start_with(1).await;
    let record = ada().record(1, now());
    create(&store, &record).await;
    let replication = store.health(now()).await.unwrap().replication;
    assert_eq!(replication, Some(Replication { connected: 1, needed: 1, configured: 1 }));
    servers.replica.freeze();
    let unconfirmed = |answer: Result<Done, StoreError>| match answer {
        Err(StoreError::Unavailable(text)) => {
            assert!(
                text.contains("confirmed by 0 of 1 replicas") && text.contains("check the Redis replicas"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    };
    let committed = async |commit: &Commit| match store.commit(commit, now()).await? {
        Outcome::Done(done) => Ok(done),
        other => panic!("{other:?}"),
    };
    let revocation = revoke(&record);
    let meanwhile = async {
        // Far fewer than fit into the time that a WAIT takes.
        for _ in 0..50 {
            assert!(store.get(record.id, now()).await.unwrap().is_some());
        }
        store.beat(0, &beat(1, false)).await.unwrap();
        store.members(0).await.unwrap();
    };
    let confirmed = beat(2, true);
    let (first, barrier, beaten, ()) = tokio::time::timeout(Duration::from_secs(20), async {
        tokio::join!(committed(&revocation), store.barrier(0), store.beat(0, &confirmed), meanwhile)
    })
    .await
    .unwrap();
    unconfirmed(first);
    unconfirmed(barrier);
    assert!(matches!(beaten, Err(StoreError::Unavailable(_))), "{beaten:?}");
    // A refusal says nothing that could be lost.
    assert_eq!(store.commit(&sample::create(&record), now()).await.unwrap(), Outcome::Conflict);

    servers.replica.thaw();
    // As who does not know has to: read, and write again.
    until("it is confirmed", async || {
        let read = store.get(record.id, now()).await.unwrap().unwrap();
        committed(&revoke(&read.record)).await.is_ok()
    })
    .await;
}

/// All that is written at once, over all connections, is confirmed and has a place of its own.
#[tokio::test]
async fn many_commits_at_once_are_each_written_once_and_confirmed() {
    let WithReplica { servers, store } = start_with(4).await;
    let owners = 40;
    let writers = (0..owners).map(|n| {
        let store = store.clone();
        async move {
            let ada = holder("acme", &format!("o{n}"));
            for at in 0..10 {
                create(&store, &ada.record(at, now())).await;
                store.beat(n % 4, &Beat { member: MemberId([1; 16]), ..beat(1 + u64::from(at), true) }).await.unwrap();
            }
        }
    });
    let flush = async {
        for _ in 0..5 {
            servers.primary.run(&["SCRIPT", "FLUSH"]);
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(futures_util::future::join_all(writers), flush);
    let mut entries = 0;
    for shard in 0..4 {
        let page = store.log(shard, None, 1000).await.unwrap();
        assert_eq!((page.gap, page.tail), (false, page.entries.len() as u64));
        entries += page.entries.len();
    }
    assert_eq!(entries, usize::from(owners) * 10);
    // As many connections as there are lanes, and no more; one is that of the question.
    let clients: String = servers.primary.command(&["CLIENT", "LIST", "TYPE", "NORMAL"]);
    assert!(clients.lines().count() <= 1 + 9, "{clients}");
}

/// A primary with two replicas, of which none, one and both are away.
#[tokio::test]
async fn as_many_nodes_confirm_as_store_wait_says() {
    let Replicated { primary, replica } = Replicated::start();
    let second = RedisServer::start_with(&["replicaof", &format!("127.0.0.1 {}", primary.port())]);
    let waits = [(Wait::All, 2), (Wait::Majority, 1), (Wait::Nodes(1), 0), (Wait::Nodes(2), 1), (Wait::Nodes(3), 2)];
    for (n, (wait, needed)) in (0..).zip(waits) {
        until("both replicas follow", async || primary.command::<u64>(&["WAIT", "2", "100"]) == 2).await;
        let store = connect(RedisConfig { replicas: 2, wait, ..config(&primary, 1) }).await.unwrap();
        until("both replicas confirm", async || store.barrier(0).await.is_ok()).await;
        for away in 0..=2 {
            match away {
                0 => {}
                1 => second.freeze(),
                _ => replica.freeze(),
            }
            let (there, creation) = (2 - away, sample::create(&ada().record(3 * n + away, now())));
            let beat = beat(u64::from(away) + 1, true);
            let (committed, beaten, barrier) =
                tokio::join!(store.commit(&creation, now()), store.beat(0, &beat), store.barrier(0));
            let errors = [committed.err(), beaten.err(), barrier.err()];
            if needed <= there {
                assert_eq!(errors, [None, None, None], "{wait:?}, {away} away");
                continue;
            }
            for error in errors {
                let text = error.map_or_else(|| "OK".to_owned(), |error| error.to_string());
                let says = format!("confirmed by {there} of {needed} replicas");
                assert!(text.contains(&says), "{wait:?}, {away} away: {text}");
            }
        }
        second.thaw();
        replica.thaw();
        // The number may be another one where nobody lives who goes by this one.
        store.release(0, beat(0, true).member).await.unwrap();
    }
}

#[tokio::test]
async fn more_nodes_than_there_are_cannot_confirm() {
    let server = RedisServer::start();
    let config = RedisConfig { replicas: 1, wait: Wait::Nodes(3), ..config(&server, 1) };
    match connect(config).await {
        Err(StoreError::Refused(text)) => assert!(text.contains("names 3 nodes, and there are 2"), "{text}"),
        other => panic!("{other:?}"),
    }
}

/// A process that starts while a failover is under way: its address leads to a replica, for a moment.
#[tokio::test]
async fn a_replica_at_the_address_is_waited_for_where_one_may_be_promoted() {
    let servers = Replicated::start();
    let url = RedisUrl::parse(&servers.replica.url()).unwrap();
    for (replicas, refused) in [(0, true), (1, false)] {
        let config = RedisConfig { replicas, ..RedisConfig::new(url.clone()) };
        let error = connect(config).await.unwrap_err();
        assert_eq!(matches!(error, StoreError::Refused(_)), refused, "{error:?}");
        assert!(error.to_string().contains("is a replica of"), "{error}");
    }
}
