//! A Redis, or the replica of one, that is away: nobody accepts a key because nobody can be asked, and nothing is
//! answered OK that may not last. `store_redis` has what the store answers meanwhile, verb by verb.

use std::sync::Arc;
use std::time::Duration;

use keyclasp::clock::{Clock, SystemClock};
use keyclasp::key::{ApiKey, KeyId};
use keyclasp::service::validate::Outcome;
use keyclasp::service::{Error, ErrorKind};
use keyclasp::store::redis::RedisConfig;
use tokio::task::JoinHandle;

use super::{Fleet, Process, TERM};
use crate::support::until;

/// Long enough that a check begins and ends within it.
const LONG_TERM: Duration = Duration::from_secs(2);
/// Longest that a call of the store takes, so that a test need not wait for longer.
const CALL: Duration = Duration::from_secs(1);

/// Two processes that have two keys in memory, the first of which will be revoked.
struct Warm {
    a: Process,
    b: Process,
    id: KeyId,
    text: ApiKey,
    other: ApiKey,
}

impl Warm {
    async fn new(fleet: &Fleet, term: Duration) -> Self {
        let config = || RedisConfig { lease: Some(term), call_timeout: CALL, ..fleet.config() };
        let (a, b) = (fleet.join_as(config()).await, fleet.join_as(config()).await);
        let (id, text) = a.world.key(None).await;
        let (_, other) = a.world.key(None).await;
        for process in [&a, &b] {
            process.up_to_date().await;
            process.warm(&text).await;
            process.warm(&other).await;
        }
        Self { a, b, id, text, other }
    }

    fn revoking(&self) -> JoinHandle<Result<(), Error>> {
        let (world, id) = (Arc::clone(&self.a.world), self.id);
        tokio::spawn(async move { world.try_revoke(id).await.map(|_| ()) })
    }

    async fn assert_nobody_accepts(&self) {
        for process in [&self.b, &self.a] {
            for text in [&self.text, &self.other] {
                assert!(!process.accepts(text).await, "accepted without a lease");
            }
        }
    }

    /// It is over: keys are validated, and the repeated revocation holds.
    async fn assert_well(&self) {
        for process in [&self.a, &self.b] {
            assert_eq!(process.check(&self.other).await, Outcome::Valid);
        }
        until("the repeated revocation is answered", async || self.a.world.try_revoke(self.id).await.is_ok()).await;
        for process in [&self.b, &self.a] {
            assert!(!process.accepts(&self.text).await, "revoked, and accepted");
            assert_eq!(process.check(&self.text).await, Outcome::Revoked);
        }
    }

    /// Whether the process holds a lease now.
    fn holds(&self, process: &Process) -> bool {
        process.standing(self.id).left.is_some()
    }

    /// Checks a key until the lease has ended: what begins and ends within it is accepted, and nothing else.
    async fn use_up_the_lease(&self, process: &Process, text: &ApiKey) {
        let mut accepted = 0;
        until("the lease has ended", async || {
            let before = self.holds(process);
            let outcome = process.world.try_check(text).await;
            let after = self.holds(process);
            match outcome {
                Ok(Outcome::Valid) => {
                    assert!(before, "accepted without a lease");
                    accepted += 1;
                }
                Err(error) => {
                    assert!(!after, "not accepted with a lease: {error:?}");
                    assert_eq!(error.kind, ErrorKind::StoreUnavailable, "{error:?}");
                }
                Ok(other) => panic!("{other:?}"),
            }
            !after
        })
        .await;
        assert!(accepted > 0, "the lease had ended before: nothing is shown");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_hangs_keys_are_accepted_until_the_lease_ends_and_not_longer() {
    let fleet = Fleet::standalone().await;
    let warm = Warm::new(&fleet, LONG_TERM).await;
    fleet.primary().freeze();
    let revoking = warm.revoking();
    tokio::join!(
        warm.use_up_the_lease(&warm.b, &warm.text),
        warm.use_up_the_lease(&warm.b, &warm.other),
        warm.use_up_the_lease(&warm.a, &warm.other),
    );
    let error = revoking.await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::StoreUnavailable, "{error:?}");
    let clock = SystemClock::new();
    while clock.elapsed() < TERM {
        warm.assert_nobody_accepts().await;
        tokio::task::yield_now().await;
    }
    fleet.primary().thaw();
    warm.assert_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_hangs_for_less_than_a_lease_delays_a_revocation_and_no_check() {
    let fleet = Fleet::standalone().await;
    let warm = Warm::new(&fleet, 4 * LONG_TERM).await;
    fleet.primary().freeze();
    let revoking = warm.revoking();
    let mut checks = 0;
    until("some checks are answered", async || {
        assert!(warm.a.accepts(&warm.other).await && warm.b.accepts(&warm.other).await, "not accepted with a lease");
        checks += 1;
        checks == 20
    })
    .await;
    assert!(!revoking.is_finished(), "nothing can have been revoked");
    fleet.primary().thaw();
    revoking.await.unwrap().unwrap();
    assert!(!warm.b.accepts(&warm.text).await, "revoked, and accepted");
    warm.assert_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_has_forgotten_its_scripts_holds_up_neither_revocations_nor_checks() {
    let fleet = Fleet::standalone().await;
    let [a, b] = fleet.processes().await;
    for _ in 0..10 {
        let (id, text) = a.world.key(None).await;
        let (_, cold) = a.world.key(None).await;
        b.warm(&text).await;
        fleet.primary().run(&["SCRIPT", "FLUSH"]);
        a.world.revoke(id).await;
        assert!(!b.accepts(&text).await, "revoked, and accepted");
        assert_eq!(b.check(&cold).await, Outcome::Valid);
    }
    let errors: String = fleet.primary().command(&["INFO", "errorstats"]);
    assert!(errors.contains("errorstat_NOSCRIPT"), "no script was asked for by name: nothing is shown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_replica_nothing_is_revoked_and_nobody_accepts_once_the_leases_have_ended() {
    let fleet = Fleet::replicated().await;
    let warm = Warm::new(&fleet, TERM).await;
    let Fleet::Replicated(servers, _) = &fleet else { panic!("another set-up") };
    servers.replica.freeze();
    let error = warm.revoking().await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::StoreUnavailable, "{error:?}");
    until("all leases have ended", async || !warm.holds(&warm.a) && !warm.holds(&warm.b)).await;
    let clock = SystemClock::new();
    while clock.elapsed() < 3 * TERM {
        warm.assert_nobody_accepts().await;
        tokio::task::yield_now().await;
    }
    // The primary does answer: a lease is what is missing.
    warm.b.store.get(warm.id, SystemClock::new().now()).await.unwrap();
    servers.replica.thaw();
    warm.assert_well().await;
}
