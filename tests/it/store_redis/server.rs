//! Which servers will do, and what is said about them.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[tokio::test]
async fn what_cannot_be_relied_on_is_refused_with_its_remedy() {
    let refused = async |config: RedisConfig| match connect(config).await {
        Err(StoreError::Refused(text)) => text,
        other => panic!("{other:?}"),
    };
    let server = RedisServer::start_with(&["maxmemory-policy", "allkeys-lru"]);
    let text = refused(config(&server, 1)).await;
    assert!(text.contains("allkeys-lru") && text.contains("noeviction"), "{text}");

    server.run(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    connect(config(&server, 4)).await.unwrap();
    let text = refused(config(&server, 1)).await;
    assert!(
        text.contains("made with 4 shards") && text.contains("says 1") && text.contains("store.shards = 4"),
        "{text}"
    );
    connect(config(&server, 4)).await.unwrap();

    let replica = RedisServer::start_with(&["replicaof", &format!("127.0.0.1 {}", server.port())]);
    let text = refused(config(&replica, 4)).await;
    assert!(text.contains("replica of 127.0.0.1") && text.contains("primary"), "{text}");

    server.run(&["CONFIG", "SET", "requirepass", "right"]);
    let with = |password: &str| RedisConfig {
        url: RedisUrl::parse(&server.url()).unwrap().with_password(password),
        ..RedisConfig::new(RedisUrl::parse("redis://unused").unwrap())
    };
    for config in [with("s3cret"), config(&server, 4)] {
        let text = refused(config).await;
        assert!(text.contains("user and password") && !text.contains("s3cret"), "{text}");
    }
    connect(RedisConfig { shards: Shards::parse(4).unwrap(), ..with("right") }).await.unwrap();
}

/// The least that keyclasp's user must be allowed, which is what the documentation tells.
#[tokio::test]
async fn a_user_with_few_rights_is_enough() {
    let server = RedisServer::start();
    let user = "ACL SETUSER keyclasp on >s3cret ~kc:* resetchannels -@all +@connection +eval +evalsha +info +time \
                +hget +hgetall +hsetnx +hdel +get +mget +getrange +set +exists +incrby +xadd +xrange +xrevrange +zadd \
                +zcard +zcount +zrange +zrandmember +zrem +zscore +persist +pexpire +scan +hset +xread";
    let words: Vec<_> = user.split_whitespace().collect();
    let documented: Vec<_> = include_str!("../../../docs/OPERATIONS.md").split_whitespace().collect();
    let documented = documented.join(" ").replace(">PASSWORD", ">s3cret");
    assert!(documented.contains(&words.join(" ")), "docs/OPERATIONS.md tells of another user");
    server.run(&words);
    let url = format!("redis://keyclasp:s3cret@127.0.0.1:{}", server.port());
    let lease = Some(Duration::from_millis(200));
    let store = connect(RedisConfig { lease, ..RedisConfig::new(RedisUrl::parse(&url).unwrap()) }).await.unwrap();
    let ending = Write { gone_at: Some(now().after(DAY)), ..sample::creation(&ada().record(1, now())) };
    done(&store, &Commit { guard: Some(ada().guard(5)), ..sample::commit(vec![ending]) }).await;
    server.run(&["DEL", &record_key(ada().id(1), 1)]);
    assert_eq!(verbs_that_answer(&store).await.len(), VERBS);
    assert_eq!(store.wake(&[(0, 0)], Duration::ZERO).await.unwrap().len(), 1);
    store.set_lease(Duration::from_millis(200)).await.unwrap();
    store.check().await.unwrap();
    server.run(&["CONFIG", "SET", "appendonly", "yes"]);
    assert!(matches!(store.health(now()).await.unwrap().durability, Durability::Unknown(_)));
}

#[tokio::test]
async fn a_unix_socket_and_a_database_of_its_own_will_do() {
    let server = RedisServer::start();
    let url = format!("unix://{}?db=3", server.socket().display());
    let store = connect(RedisConfig::new(RedisUrl::parse(&url).unwrap())).await.unwrap();
    let record = ada().record(1, now());
    create(&store, &record).await;
    assert_eq!(store.get(record.id, now()).await.unwrap().as_ref().map(|found| &*found.record), Some(&record));
    assert_eq!(store.identity().location, url);
    assert!(server.command::<String>(&["INFO", "keyspace"]).contains("db3:"));
    assert_eq!(server.command::<u64>(&["DBSIZE"]), 0);
}

#[tokio::test]
async fn health_says_what_this_redis_is() {
    let OnRedis { server, store } = start(&["maxmemory", "100mb"]).await;
    let health = store.health(now()).await.unwrap();
    assert_eq!(health.role, "primary");
    assert!(health.version.starts_with("Redis ") || health.version.starts_with("Valkey "), "{}", health.version);
    assert!(matches!(&health.durability, Durability::Lossy(text) if text.contains("loses everything")));
    assert!(!health.evicts && health.fullness.is_some_and(|fullness| fullness > 0.0 && fullness < 1.0));
    let offset = health.clock.unwrap().since(now()).max(now().since(health.clock.unwrap()));
    assert!(offset < Duration::from_secs(60), "{offset:?}");
    server.run(&["CONFIG", "SET", "save", "3600 1"]);
    let text = store.health(now()).await.unwrap().durability;
    assert!(matches!(&text, Durability::Lossy(text) if text.contains("3600 1")), "{text:?}");
    server.run(&["CONFIG", "SET", "appendonly", "yes"]);
    let text = store.health(now()).await.unwrap().durability;
    assert!(matches!(&text, Durability::Lossy(text) if text.contains("one second")), "{text:?}");
}

/// What a proxy answers instead of passing a question on; none: it passes it on.
type Instead = Arc<dyn Fn(&[u8]) -> Option<&'static str> + Send + Sync>;

/// Passes connections on to the server at `target`, as far as `instead` has nothing to say.
async fn intercepted(target: u16, instead: Instead) -> RedisUrl {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = tokio::net::TcpStream::connect(("127.0.0.1", target)).await.unwrap();
            let instead = instead.clone();
            tokio::spawn(async move {
                let ((mut asks, mut hears), (mut answers, mut asked)) = (client.into_split(), server.into_split());
                let (mut question, mut reply) = (vec![0; 64 << 10], vec![0; 64 << 10]);
                loop {
                    let written = tokio::select! {
                        Ok(length @ 1..) = asks.read(&mut question) => match instead(&question[..length]) {
                            Some(answer) => hears.write_all(answer.as_bytes()).await,
                            None => asked.write_all(&question[..length]).await,
                        },
                        Ok(length @ 1..) = answers.read(&mut reply) => hears.write_all(&reply[..length]).await,
                        else => return,
                    };
                    if written.is_err() {
                        return;
                    }
                }
            });
        }
    });
    RedisUrl::parse(&format!("redis://127.0.0.1:{port}")).unwrap()
}

fn mentions(question: &[u8], text: &str) -> bool {
    question.windows(text.len()).any(|part| part == text.as_bytes())
}

/// "It does not say" is a reason to refuse a store, and must not come of a moment's silence.
#[tokio::test]
async fn a_setting_that_was_not_answered_is_not_one_that_is_withheld() {
    let server = RedisServer::start_with(&["appendonly", "yes"]);
    let through = async |answer: &'static str| {
        let instead = Arc::new(move |question: &[u8]| mentions(question, "CONFIG").then_some(answer));
        let url = intercepted(server.port(), instead).await;
        let store = connect(RedisConfig { call_timeout: Duration::from_millis(500), ..RedisConfig::new(url) }).await;
        store.unwrap().health(now()).await
    };
    let withheld = through("-ERR unknown command 'CONFIG', with args beginning with: 'GET'\r\n").await.unwrap();
    assert!(matches!(withheld.durability, Durability::Unknown(_)), "{:?}", withheld.durability);
    for answer in ["", "-BUSY Redis is busy running a script.\r\n"] {
        let silent = through(answer).await;
        assert!(matches!(silent, Err(StoreError::Unavailable(_))), "{silent:?}");
    }
}

/// The server becomes another one while it is checked: after the first shard, before the second.
#[tokio::test]
async fn a_server_that_changes_during_the_check_does_not_pass_it() {
    let server = Arc::new(RedisServer::start());
    let (behind, swapped) = (server.clone(), AtomicBool::new(false));
    let swap = move |question: &[u8]| {
        if mentions(question, "kc:{s01}:epoch") && !swapped.swap(true, Ordering::AcqRel) {
            behind.run(&["FLUSHALL"]);
            behind.run(&["HSET", "kc:{s00}:meta", "shards", "8"]);
        }
        None
    };
    let config = RedisConfig {
        shards: Shards::parse(4).unwrap(),
        ..RedisConfig::new(intercepted(server.port(), Arc::new(swap)).await)
    };
    let store = RedisStore::new(config, Arc::new(OsEntropy), Arc::new(SystemClock::new())).unwrap();
    let first = store.check().await;
    assert!(matches!(first, Err(StoreError::Unavailable(_))), "{first:?}");
    assert_eq!(store.checked(), []);
    let second = store.check().await;
    assert!(matches!(&second, Err(StoreError::Refused(text)) if text.contains("made with 8")), "{second:?}");
}

/// Once a store has served, what may be mended is waited for: a failover behind one address, a
/// setting, a password. What cannot be is refused.
#[tokio::test]
async fn a_store_that_has_passed_is_waited_for() {
    let OnRedis { server, store } = start(&[]).await;
    let waits = async |what: &str| match store.check().await {
        Err(StoreError::Unavailable(text)) => assert!(text.contains(what), "{text}"),
        other => panic!("{what}: {other:?}"),
    };
    server.run(&["REPLICAOF", "127.0.0.1", "1"]);
    waits("replica of 127.0.0.1").await;
    let health = store.health(now()).await.unwrap();
    assert_eq!((health.role.as_str(), health.epochs), ("replica", Vec::new()));
    server.run(&["REPLICAOF", "NO", "ONE"]);
    store.check().await.unwrap();

    server.run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    waits("noeviction").await;
    server.run(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    store.check().await.unwrap();

    server.run(&["ACL", "SETUSER", "default", "-info"]);
    waits("user and password").await;
    server.run(&["ACL", "SETUSER", "default", "+info"]);
    store.check().await.unwrap();
    create(&store, &ada().record(1, now())).await;

    server.run(&["FLUSHALL"]);
    server.run(&["HSET", "kc:{s00}:meta", "shards", "2"]);
    let refused = store.check().await;
    assert!(matches!(&refused, Err(StoreError::Refused(text)) if text.contains("made with 2")), "{refused:?}");
    assert_eq!(server.command::<u64>(&["DBSIZE"]), 1, "nothing was written");
}
