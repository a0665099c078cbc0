//! A server that is full, stopped, frozen, silent, or has forgotten its scripts.

use super::*;

#[tokio::test]
async fn a_full_server_refuses_what_adds_and_takes_what_takes_away() {
    let OnRedis { server, store } = start(&[]).await;
    let (first, second) = (ada().record(1, now()), ada().record(2, now()));
    create(&store, &first).await;
    create(&store, &second).await;
    server.run(&["CONFIG", "SET", "maxmemory", "1mb"]);
    for round in 0..2 {
        let refused = store.commit(&sample::create(&ada().record(3, now())), now()).await;
        assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
        let revoked = if round == 0 { revoke(&first) } else { revoke(&second) };
        done(&store, &revoked).await;
        let written = revoked.writes[0].record.clone();
        assert_eq!(store.get(written.id, now()).await.unwrap().as_ref().map(|found| &*found.record), Some(&written));
        assert_eq!(store.list(&ada().list(10), now()).await.unwrap().records.len(), 2);
        assert_eq!(store.list(&ada().list_realm(10), now()).await.unwrap().records.len(), 2);
        assert!(store.health(now()).await.unwrap().fullness.unwrap() > 1.0);
        assert_eq!(store.log(0, None, 10).await.unwrap().entries.len(), 3 + round);
        assert_eq!(store.scan(None, now()).await.unwrap().records.len(), 2);
        // A process that starts now can serve, scripts forgotten or not.
        server.run(&["SCRIPT", "FLUSH"]);
        connect(config(&server, 1)).await.unwrap();
    }
    server.run(&["CONFIG", "SET", "maxmemory", "0"]);
    create(&store, &ada().record(3, now())).await;
}

#[tokio::test]
async fn scripts_may_be_forgotten_at_any_time() {
    let OnRedis { server, store } = start(&[]).await;
    let flusher = tokio::task::spawn_blocking(move || {
        for _ in 0..200 {
            server.run(&["SCRIPT", "FLUSH"]);
        }
        server
    });
    let mut written = 0;
    while written < 50 || !flusher.is_finished() {
        let record = ada().record(written, now());
        create(&store, &record).await;
        assert_eq!(store.get(record.id, now()).await.unwrap().as_ref().map(|found| &*found.record), Some(&record));
        assert!(!store.list(&ada().list(10), now()).await.unwrap().records.is_empty());
        written += 1;
    }
    let page = store.log(0, None, 10_000).await.unwrap();
    assert_eq!((page.tail, page.gap), (u64::from(written), false), "each commit was written once");
    flusher.await.unwrap();
}

#[tokio::test]
async fn while_redis_is_down_every_verb_says_so_and_then_goes_on() {
    let OnRedis { mut server, store } = start(&["appendonly", "yes", "appendfsync", "always"]).await;
    assert_eq!(verbs_that_answer(&store).await.len(), VERBS);
    for _ in 0..2 {
        server.kill();
        assert_eq!(verbs_that_answer(&store).await, [""; 0]);
        assert_eq!(verbs_that_answer(&store).await, [""; 0]);
        server.start_again();
        until("every verb answers", async || verbs_that_answer(&store).await.len() == VERBS).await;
    }
}

#[tokio::test]
async fn a_server_that_never_was_there_is_unavailable_and_not_refused() {
    let mut server = RedisServer::start();
    let config = config(&server, 1);
    server.kill();
    assert!(matches!(connect(config.clone()).await, Err(StoreError::Unavailable(_))));
    let store = RedisStore::new(config, Arc::new(OsEntropy), Arc::new(SystemClock::new())).unwrap();
    assert_eq!(verbs_that_answer(&store).await, [""; 0]);
    server.start_again();
    until("the start-up check passes", async || store.check().await.is_ok()).await;
    assert_eq!(verbs_that_answer(&store).await.len(), VERBS);
}

#[tokio::test]
async fn a_frozen_server_is_noticed_and_left_behind() {
    let OnRedis { server, .. } = start(&[]).await;
    let short = Duration::from_millis(300);
    let store =
        connect(RedisConfig { connect_timeout: short, call_timeout: short, ..config(&server, 1) }).await.unwrap();
    let record = ada().record(1, now());
    create(&store, &record).await;
    server.freeze();
    assert_eq!(verbs_that_answer(&store).await, [""; 0]);
    let many: Vec<_> = (0..200).map(|n| store.get(ada().id(n), record.created_at)).collect();
    let answers = tokio::time::timeout(Duration::from_secs(10), futures_util::future::join_all(many)).await.unwrap();
    assert!(answers.iter().all(Result::is_err));
    server.thaw();
    until("every verb answers", async || verbs_that_answer(&store).await.len() == VERBS).await;
    assert_eq!(store.get(record.id, now()).await.unwrap().as_ref().map(|found| &*found.record), Some(&record));
}

/// Passes connections on to `server` until it is silenced: those that are open then stay open, and
/// nothing comes through them any more.
async fn proxy(server: &RedisServer) -> (u16, Arc<tokio::sync::Notify>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (port, target) = (listener.local_addr().unwrap().port(), server.port());
    let silence = Arc::new(tokio::sync::Notify::new());
    let silenced = silence.clone();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let silenced = silenced.clone();
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    () = silenced.notified() => std::future::pending().await,
                }
            });
        }
    });
    (port, silence)
}

/// Callers that give up after a moment never see a call time out; the connection is found out all
/// the same.
#[tokio::test]
async fn a_silent_connection_is_left_behind_by_impatient_callers() {
    let server = RedisServer::start();
    let (port, silence) = proxy(&server).await;
    let url = RedisUrl::parse(&format!("redis://127.0.0.1:{port}")).unwrap();
    let store = connect(RedisConfig::new(url)).await.unwrap();
    let (id, moment) = (ada().id(1), Duration::from_millis(100));
    assert_eq!(store.get(id, now()).await.unwrap(), None);
    silence.notify_waiters();
    assert!(tokio::time::timeout(moment, store.get(id, now())).await.is_err(), "it is not silent");
    until("a new connection", async || tokio::time::timeout(moment, store.get(id, now())).await.is_ok()).await;
    let record = ada().record(2, now());
    until("another for writes", async || {
        let written = tokio::time::timeout(moment, store.commit(&sample::create(&record), now())).await;
        matches!(written, Ok(Ok(Outcome::Done(_) | Outcome::Conflict)))
    })
    .await;
}

/// A connection that died while nobody used it is found out before the next call, not by it.
#[tokio::test]
async fn killed_connections_are_replaced() {
    let OnRedis { server, store } = start(&[]).await;
    for n in 0..20 {
        let record = ada().record(n, now());
        create(&store, &record).await;
        assert_eq!(store.get(record.id, now()).await.unwrap().as_ref().map(|found| &*found.record), Some(&record));
        server.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let others = async || server.command::<String>(&["CLIENT", "LIST"]).lines().count() - 1;
        until("they are closed", async || others().await == 0).await;
        // Whoever drives the connections runs, and hears of it, when this task yields.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
}
