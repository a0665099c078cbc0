//! An address that leads to another server than it did, while connections stay with the one that they reached.

use super::*;
use crate::support::proxy::Proxy;
use crate::support::redis::Replicated;

const TERM: Duration = Duration::from_millis(300);

fn by_way_of(proxy: &Proxy, replicas: u32) -> RedisConfig {
    let url = RedisUrl::parse(&format!("redis://127.0.0.1:{}", proxy.port())).unwrap();
    RedisConfig { replicas, lease: Some(TERM), ..RedisConfig::new(url) }
}

/// A server that is followed by the one that takes its place, an address that leads to it, and a store there.
async fn start() -> (Replicated, Proxy, Arc<RedisStore>) {
    let servers = Replicated::start();
    let proxy = Proxy::start(servers.primary.port());
    let store = connect(by_way_of(&proxy, 0)).await.unwrap();
    (servers, proxy, store)
}

/// The address leads to what was the replica. What was the primary lives on.
fn fail_over(Replicated { replica, .. }: &Replicated, proxy: &Proxy) {
    replica.run(&["REPLICAOF", "NO", "ONE"]);
    proxy.point_at(replica.port());
}

const fn beat(number: u64, confirmed: bool) -> Beat {
    Beat { member: MemberId([1; 16]), number, applied: None, confirmed }
}

/// Who is connected to a server, but for who asks.
fn clients(server: &RedisServer) -> usize {
    server.command::<String>(&["CLIENT", "LIST", "TYPE", "NORMAL"]).lines().count() - 1
}

/// How many connections a server has accepted, with that of who asks.
fn accepted(server: &RedisServer) -> u64 {
    let stats: String = server.command(&["INFO", "stats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    line.unwrap().parse().unwrap()
}

/// The next call of each lane makes a connection.
async fn cut(server: &RedisServer, proxy: &Proxy) {
    proxy.cut();
    until("all connections are closed", async || clients(server) == 0).await;
    // Whoever drives the connections runs, and hears of it, when this task yields.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

async fn is_found_at(store: &RedisStore, n: u32, is: &RedisServer, is_not: &RedisServer) {
    let record = ada().record(n, now());
    create(store, &record).await;
    let found = [is, is_not].map(|server| server.command::<u64>(&["EXISTS", &record_key(record.id, 1)]));
    assert_eq!(found, [1, 0]);
}

#[tokio::test]
async fn every_lane_leaves_a_server_that_became_a_replica() {
    let (servers, proxy, store) = start().await;
    assert_eq!(verbs_that_answer(&store).await.len(), VERBS);
    let checked = store.checked();
    fail_over(&servers, &proxy);
    servers.primary.run(&["REPLICAOF", "127.0.0.1", &servers.replica.port().to_string()]);
    until("every verb answers", async || verbs_that_answer(&store).await.len() == VERBS).await;
    assert_ne!(store.checked(), checked);
    assert_eq!(store.health(now()).await.unwrap().epochs, store.checked());
    until("the old server is left", async || clients(&servers.primary) == 0).await;
}

/// One connection is enough to notice: here that of acknowledgements, which nobody had made before.
#[tokio::test]
async fn every_lane_leaves_a_living_server_when_one_finds_another_history() {
    let (servers, proxy, store) = start().await;
    let checked = store.checked();
    fail_over(&servers, &proxy);
    store.check().await.unwrap();
    assert_eq!(store.checked(), checked, "the lanes of the check lead to the old server");
    assert!(matches!(store.beat(0, &beat(1, false)).await, Err(StoreError::Unavailable(_))));
    until("the old server is left", async || clients(&servers.primary) == 0).await;
    until("the check passes", async || store.check().await.is_ok()).await;
    assert_ne!(store.checked(), checked);
    is_found_at(&store, 1, &servers.replica, &servers.primary).await;
}

#[tokio::test]
async fn a_check_of_another_history_has_every_lane_left_that_may_lead_elsewhere() {
    let (servers, proxy, store) = start().await;
    let checked = store.checked();
    cut(&servers.primary, &proxy).await;
    until("the lane of beats leads to the old server", async || store.beat(0, &beat(1, true)).await.is_ok()).await;
    fail_over(&servers, &proxy);
    until("the check passes", async || store.check().await.is_ok()).await;
    assert_ne!(store.checked(), checked);
    until("the old server is left", async || clients(&servers.primary) == 0).await;
    assert_eq!(store.beat(0, &beat(2, true)).await.unwrap().epoch, store.checked()[0]);
}

#[tokio::test]
async fn a_check_whose_lanes_lead_to_two_servers_passes_in_the_end() {
    let (servers, proxy, store) = start().await;
    let checked = store.checked();
    cut(&servers.primary, &proxy).await;
    until("the lane of reads leads to the old server", async || store.health(now()).await.is_ok()).await;
    fail_over(&servers, &proxy);
    assert!(matches!(store.check().await, Err(StoreError::Unavailable(_))), "it reads from one and writes to another");
    until("the check passes", async || store.check().await.is_ok()).await;
    assert_ne!(store.checked(), checked);
    is_found_at(&store, 1, &servers.replica, &servers.primary).await;
}

/// Nothing on the old primary says that it was left but that nobody confirms what it writes. Who asks may have
/// less patience than it takes to be told.
#[tokio::test]
async fn who_is_left_with_an_old_primary_goes_to_where_the_address_leads() {
    for patience in [Duration::from_secs(10), TERM] {
        let (old, new) = (Replicated::start(), Replicated::start());
        let proxy = Proxy::start(old.primary.port());
        let store = connect(by_way_of(&proxy, 1)).await.unwrap();
        store.beat(0, &beat(1, true)).await.unwrap();
        let checked = store.checked();
        proxy.point_at(new.primary.port());
        old.replica.freeze();
        let mut number = 1;
        until("a beat is answered in another history", async || {
            number += 1;
            let beaten = tokio::time::timeout(patience, store.beat(0, &beat(number, true))).await;
            let checked_again = store.check().await.is_ok() && store.checked() != checked;
            checked_again && matches!(beaten, Ok(Ok(beaten)) if beaten.epoch == store.checked()[0])
        })
        .await;
        until("the old server is left", async || clients(&old.primary) == 0).await;
    }
}

/// Where the address leads to a replica, it is asked again and again, and dialled now and then.
#[tokio::test]
async fn a_replica_is_not_dialled_in_a_tight_loop() {
    let (servers, _proxy, store) = start().await;
    let other = RedisServer::start();
    servers.primary.run(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    let (clock, before) = (SystemClock::new(), accepted(&servers.primary));
    let began = clock.elapsed();
    let mut calls = 0;
    while clock.elapsed() < began + Duration::from_millis(1200) {
        assert!(store.get(ada().id(1), now()).await.is_err());
        calls += 1;
    }
    // One more is that of the second question.
    let dialled = accepted(&servers.primary) - before - 1;
    // After growing pauses at first, then four times a second.
    let most = 4 + (clock.elapsed() - began).as_millis() / 250;
    assert!(dialled >= 2 && u128::from(dialled) <= most, "{dialled} connections for {calls} calls, at most {most}");
    assert!(calls > 10 * dialled, "{calls} calls");
}

/// A primary whose replica is missing is the right one: what reads stays, and what is not confirmed dials once.
#[tokio::test]
async fn a_primary_without_its_replica_is_dialled_anew_for_what_was_not_confirmed_alone() {
    let servers = Replicated::start();
    let proxy = Proxy::start(servers.primary.port());
    let store = connect(by_way_of(&proxy, 1)).await.unwrap();
    store.beat(0, &beat(1, true)).await.unwrap();
    store.beat(0, &beat(2, false)).await.unwrap();
    servers.replica.freeze();
    let before = accepted(&servers.primary);
    for number in 3..6 {
        assert!(store.beat(0, &beat(number, true)).await.is_err());
        for _ in 0..50 {
            store.get(ada().id(1), now()).await.unwrap();
            store.members(0).await.unwrap();
            store.beat(0, &beat(number, false)).await.unwrap();
        }
    }
    let dialled = accepted(&servers.primary) - before - 1;
    assert!((1..=3).contains(&dialled), "{dialled} connections for 3 beats");
    servers.replica.thaw();
    until("it is confirmed", async || store.beat(0, &beat(6, true)).await.is_ok()).await;
}

/// Nor do those who ask again and again have it dialled each time.
#[tokio::test]
async fn a_primary_without_its_replica_is_not_dialled_for_each_impatient_call() {
    let servers = Replicated::start();
    let proxy = Proxy::start(servers.primary.port());
    let store = connect(by_way_of(&proxy, 1)).await.unwrap();
    store.beat(0, &beat(1, true)).await.unwrap();
    servers.replica.freeze();
    let (clock, before) = (SystemClock::new(), accepted(&servers.primary));
    let began = clock.elapsed();
    let mut number = 1;
    while clock.elapsed() < began + Duration::from_millis(1200) {
        number += 1;
        let beaten = tokio::time::timeout(Duration::from_millis(110), store.beat(0, &beat(number, true))).await;
        assert!(!matches!(beaten, Ok(Ok(_))));
    }
    let dialled = accepted(&servers.primary) - before - 1;
    let most = 1 + (clock.elapsed() - began).as_millis() / 250;
    assert!(dialled >= 1 && u128::from(dialled) <= most, "{dialled} connections for {number} beats, at most {most}");
}
