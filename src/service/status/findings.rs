//! What the state of a replica means for an operator, and what to do about it. Asks nobody and reads no clock.

use std::time::Duration;

use super::{FenceState, Finding, Severity};
use crate::clock::Timestamp;
use crate::fence::Standing;
use crate::store::{Durability, Health, Replication, StoreError, over};

/// A clock offset beyond this is worth a finding: expiry is decided by each replica's own clock.
const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(1);
/// A store fuller than this is worth a finding.
const FULLNESS: f64 = 0.85;
/// A log that has waited for longer than this part of a lease's term is worth a finding: revocations wait for it.
const LAG: u32 = 5;

/// What `health`, with how long the store took to tell, and the leases mean at `now`.
pub(super) fn of(
    health: &Result<(Health, Duration), StoreError>,
    fence: Option<&FenceState>,
    now: Timestamp,
) -> Vec<Finding> {
    let mut findings = match health {
        Ok((health, latency)) => of_store(health, *latency, fence, now),
        Err(error) => vec![unreachable(error, fence)],
    };
    if let Some(fence) = fence {
        findings.extend([no_lease(fence), log_lags(fence), not_settled(fence)].into_iter().flatten());
    }
    findings
}

/// What it means that dry runs let so many requests through.
pub(super) fn dry_run(let_through: u64) -> Option<Finding> {
    let meaning = format!(
        "since this replica started, {let_through} requests that would have been refused have passed, because \
         proxy.dry_run or a route's keyclasp.dry_run asks for that"
    );
    let remedy = "see keyclasp_proxy_decisions_total{dry_run=\"true\"} for the reasons; end the dry run when they are \
                  those that you want";
    (let_through > 0).then(|| finding(Severity::Warning, "DRY_RUN", meaning, remedy))
}

fn unreachable(error: &StoreError, fence: Option<&FenceState>) -> Finding {
    let left: Option<Vec<Duration>> = fence.and_then(|fence| fence.shards.iter().map(|shard| shard.left).collect());
    let meaning = match left.and_then(|left| left.into_iter().min()) {
        Some(left) => format!(
            "{error}. No key can be made or changed. This replica goes on to validate the keys that it has in memory, \
             for {} more: then its lease ends, and no key is validated",
            shown(left)
        ),
        None => format!("{error}. No key can be made, changed or validated"),
    };
    let remedy = "start the store, or correct store.url; keyclasp goes on by itself as soon as it answers";
    finding(Severity::Error, "STORE_UNREACHABLE", meaning, remedy)
}

/// What `health` means.
fn of_store(health: &Health, latency: Duration, fence: Option<&FenceState>, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    if health.evicts {
        findings.push(finding(
            Severity::Error,
            "STORE_EVICTS",
            "the store drops records when it is full: keys would vanish",
            "set maxmemory-policy to noeviction",
        ));
    }
    if health.role == "replica" {
        findings.push(finding(
            Severity::Error,
            "STORE_IS_REPLICA",
            "the store is a replica and takes no writes",
            "point store.url at the primary",
        ));
    }
    findings.extend(durability(health));
    // Who follows a replica says nothing.
    if let Some(replication) = health.replication
        && health.role != "replica"
    {
        findings.extend(replicas_missing(replication, fence));
        findings.extend(replicas_uncounted(replication));
        findings.extend(failover_loses(replication));
    }
    if let Some(clock) = health.clock {
        let offset = clock.since(now).max(now.since(clock));
        if offset > MAX_CLOCK_OFFSET + latency {
            let meaning = format!(
                "this replica's clock and the store's are {} apart: keys begin and end early or late by that much",
                shown(offset)
            );
            let remedy = "synchronize both clocks (chrony, systemd-timesyncd)";
            findings.push(finding(Severity::Warning, "CLOCK_OFFSET", meaning, remedy));
        }
    }
    if let Some(fullness) = health.fullness
        && fullness > FULLNESS
    {
        let meaning = format!("the store is {:.0} % full; once it is full, no keys can be made", fullness * 100.0);
        let remedy = "raise maxmemory, or shorten keys.retention";
        findings.push(finding(Severity::Warning, "STORE_NEARLY_FULL", meaning, remedy));
    }
    findings
}

fn durability(health: &Health) -> Option<Finding> {
    let confirmed = health.replication.is_some_and(|replication| replication.needed > 0);
    match &health.durability {
        Durability::Durable(_) => None,
        Durability::Lossy(text) if confirmed => Some(finding(
            Severity::Warning,
            "STORE_NOT_DURABLE",
            format!(
                "a primary that crashes and starts again in place can have lost changes that were answered OK: a key \
                 whose revocation it lost passes again. A replica that is promoted instead has them. What the primary keeps: {text}"
            ),
            "set appendonly yes and appendfsync always on each of them, and store.require_durable = true to insist on it; \
             until then do not start a crashed primary again, promote a replica",
        )),
        Durability::Lossy(text) => Some(finding(
            Severity::Warning,
            "STORE_NOT_DURABLE",
            format!(
                "a crash of the store can lose changes that were answered OK: a key whose revocation it lost passes \
                 again. What it keeps: {text}"
            ),
            "set appendonly yes and appendfsync always, and store.require_durable = true to insist on it",
        )),
        Durability::Unknown(text) => Some(finding(
            Severity::Warning,
            "STORE_DURABILITY_UNKNOWN",
            format!("the store does not say what a crash can lose: {text}"),
            "make sure that appendonly is yes and appendfsync is always, or that the service's contract says so",
        )),
    }
}

fn replicas_missing(replication: Replication, fence: Option<&FenceState>) -> Option<Finding> {
    let Replication { connected, needed, configured } = replication;
    if connected >= configured {
        return None;
    }
    let (follow, of_configured) = (follow(connected), of_replicas(configured));
    let remedy = "start the Redis replicas and let them follow the primary (`INFO replication` there shows which do), or \
                  set store.replicas to how many there are: stop every keyclasp for that first";
    if connected >= needed {
        let spare = connected - needed;
        let meaning = match spare {
            0 => format!("{follow} the primary, of {of_configured}: if one more goes, no change is answered OK"),
            _ => {
                format!("{follow} the primary, of {of_configured}: {spare} more may go before no change is answered OK")
            }
        };
        return Some(finding(Severity::Warning, "REPLICAS_MISSING", meaning, remedy));
    }
    let then = fence.map_or_else(String::new, |fence| {
        format!(", and {} after the last confirmation no key is validated", shown(fence.term))
    });
    let meaning = format!(
        "{needed} of {of_configured} must confirm each change (store.wait), and {follow} the primary: no change is \
         answered OK{then}"
    );
    Some(finding(Severity::Error, "REPLICAS_MISSING", meaning, remedy))
}

/// WAIT counts whoever follows: with more of them than are configured, those that confirm may not be the one that
/// is promoted.
fn replicas_uncounted(replication: Replication) -> Option<Finding> {
    let Replication { connected, needed, configured } = replication;
    (needed > 0 && connected > configured).then(|| {
        finding(
            Severity::Warning,
            "REPLICAS_UNCOUNTED",
            format!(
                "{} the primary, and store.replicas says {configured}: a change may be confirmed by others than the one \
                 that is promoted, which can then lack it, and a key whose revocation it lacks passes again",
                follow(connected)
            ),
            "set store.replicas to the number that follow (stop every keyclasp for that first), or let no more follow than it says",
        )
    })
}

fn failover_loses(replication: Replication) -> Option<Finding> {
    let Replication { connected, needed, configured } = replication;
    (needed == 0 && connected.max(configured) > 0).then(|| {
        finding(
            Severity::Warning,
            "FAILOVER_LOSES",
            format!(
                "{} the primary, and nothing waits for them: one that is promoted can lack changes that were answered \
                 OK, and a key whose revocation it lacks passes again",
                follow(connected)
            ),
            "if a replica may be promoted, set store.replicas to how many there are, and store.wait to majority or all: stop \
             every keyclasp for that first",
        )
    })
}

fn no_lease(fence: &FenceState) -> Option<Finding> {
    let (first, which) = among(fence, |shard| shard.left.is_none())?;
    let why = match (&first.trouble, first.epoch) {
        (Some(error), _) => error.to_string(),
        (None, None) => "the store has not confirmed one yet".to_owned(),
        (None, Some(_)) if first.lag > 0 => format!("{} of its log are not applied yet", entries(first.lag)),
        (None, Some(_)) => "it was not renewed in time".to_owned(),
    };
    let remedy = match &first.trouble {
        // The store answers, and no waiting heals it.
        Some(StoreError::Refused(_)) => {
            "see that store.url leads to one primary and nowhere else; where that is the one that was left, restart this \
             replica then: by itself it never goes back there"
        }
        _ => {
            "see that the store answers, is the primary and has the replicas that store.wait asks for; the lease comes back \
             by itself then"
        }
    };
    Some(finding(
        Severity::Error,
        "NO_LEASE",
        format!("this replica holds no lease of {which}, and without one it validates no key there: {why}"),
        remedy,
    ))
}

fn log_lags(fence: &FenceState) -> Option<Finding> {
    let bound = fence.term / LAG;
    let (first, which) = among(fence, |shard| shard.behind.is_some_and(|behind| behind > bound))?;
    Some(finding(
        Severity::Warning,
        "LOG_LAGS",
        format!(
            "for {} this replica has been behind in the log of {which}, now by {}: each revocation there waits for it, \
             and its lease is not renewed",
            shown(first.behind.unwrap_or_default()),
            entries(first.lag)
        ),
        "give this replica more CPU, or a faster way to the store (`keyclasp_store_call_duration_seconds`)",
    ))
}

fn not_settled(fence: &FenceState) -> Option<Finding> {
    let over = over(fence.term);
    let left = |shard: &Standing| over.checked_sub(shard.age?).filter(|left| !shard.settled && !left.is_zero());
    let (first, which) = among(fence, |shard| left(shard).is_some())?;
    Some(finding(
        Severity::Info,
        "EPOCH_NOT_SETTLED",
        format!(
            "a new history of {which} began {} ago, as after a first start, a crash or a failover. Replicas may hold \
             leases of the one before, so a revocation waits until these have ended: up to {} from now",
            shown(first.age.unwrap_or_default()),
            shown(left(first).unwrap_or_default())
        ),
        "nothing, it passes; if it comes again and again, find out why the store restarts",
    ))
}

/// The first shard for which `is` holds, and the names of all of them.
fn among(fence: &FenceState, is: impl Fn(&Standing) -> bool) -> Option<(&Standing, String)> {
    let found: Vec<_> = fence.shards.iter().enumerate().filter(|(_, shard)| is(shard)).collect();
    let (_, first) = found.first()?;
    let names: Vec<_> = found.iter().map(|(number, _)| number.to_string()).collect();
    let which = match names.as_slice() {
        _ if names.len() == fence.shards.len() && names.len() > 1 => "every shard".to_owned(),
        [only] => format!("shard {only}"),
        _ => format!("the shards {}", names.join(", ")),
    };
    Some((first, which))
}

fn finding(severity: Severity, code: &'static str, meaning: impl Into<String>, remedy: &str) -> Finding {
    Finding { severity, code, meaning: meaning.into(), remedy: remedy.to_owned() }
}

fn follow(replicas: u32) -> String {
    match replicas {
        0 => "no replica follows".to_owned(),
        1 => "1 replica follows".to_owned(),
        n => format!("{n} replicas follow"),
    }
}

fn of_replicas(configured: u32) -> String {
    if configured == 1 { "1 replica".to_owned() } else { format!("{configured} replicas") }
}

fn entries(lag: u64) -> String {
    if lag == 1 { "1 entry".to_owned() } else { format!("{lag} entries") }
}

/// A duration for people: below a millisecond nobody reads on.
fn shown(span: Duration) -> String {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fence::Waits;
    use crate::store::{Epoch, MemberId};

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const TERM: Duration = Duration::from_secs(100);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn healthy() -> Health {
        Health {
            role: "primary".to_owned(),
            version: "Redis 7.0.15".to_owned(),
            epochs: Vec::new(),
            durability: Durability::Durable("on disk before each answer".to_owned()),
            clock: Some(NOW),
            evicts: false,
            fullness: Some(0.5),
            replication: Some(Replication::default()),
        }
    }

    fn replicas(connected: u32, needed: u32, configured: u32) -> Health {
        Health { replication: Some(Replication { connected, needed, configured }), ..healthy() }
    }

    fn lossy(needed: u32) -> Health {
        Health { durability: Durability::Lossy("SOME".to_owned()), ..replicas(needed, needed, needed) }
    }

    fn held() -> Standing {
        Standing {
            epoch: Some(Epoch([1; 32])),
            age: Some(at(1000)),
            left: Some(at(60)),
            members: 2,
            settled: true,
            turns: 1,
            ..Standing::default()
        }
    }

    fn fence(shards: &[Standing]) -> FenceState {
        FenceState { member: MemberId([1; 16]), term: TERM, shards: shards.to_vec(), waits: Waits::default() }
    }

    /// What is found, as `severity CODE`, and all that is said of it.
    fn found(health: Result<Health, StoreError>, fence: Option<&FenceState>) -> (Vec<String>, String) {
        let findings = of(&health.map(|health| (health, Duration::ZERO)), fence, NOW);
        for one in &findings {
            assert!(!one.meaning.is_empty() && !one.remedy.is_empty(), "{one:?}");
            assert!(!one.meaning.contains("  ") && !one.remedy.contains("  "), "{one:?}");
        }
        let codes = findings.iter().map(|one| format!("{:?} {}", one.severity, one.code)).collect();
        let texts: Vec<_> = findings.into_iter().map(|one| format!("{} → {}", one.meaning, one.remedy)).collect();
        (codes, texts.join("\n"))
    }

    #[test]
    fn of_a_store() {
        let none: [&str; 0] = [];
        let table: [(Health, &[&str], &str); 17] = [
            (healthy(), &none, ""),
            (replicas(2, 2, 2), &none, ""),
            (Health { replication: None, ..healthy() }, &none, ""),
            (Health { evicts: true, ..healthy() }, &["Error STORE_EVICTS"], "keys would vanish"),
            (Health { role: "replica".to_owned(), ..replicas(0, 1, 1) }, &["Error STORE_IS_REPLICA"], "the primary"),
            (lossy(0), &["Warning STORE_NOT_DURABLE"], "whose revocation it lost passes again. What it keeps: SOME"),
            (lossy(1), &["Warning STORE_NOT_DURABLE"], "A replica that is promoted instead has them"),
            (
                Health { durability: Durability::Unknown("SOME".to_owned()), ..healthy() },
                &["Warning STORE_DURABILITY_UNKNOWN"],
                "can lose: SOME",
            ),
            (Health { clock: Some(NOW.after(at(3))), ..healthy() }, &["Warning CLOCK_OFFSET"], "3s apart"),
            (Health { fullness: Some(0.9), ..healthy() }, &["Warning STORE_NEARLY_FULL"], "90 % full"),
            (
                replicas(0, 1, 1),
                &["Error REPLICAS_MISSING"],
                "1 of 1 replica must confirm each change (store.wait), and no replica follows the primary: no change is \
                 answered OK, and 1m 40s after the last confirmation no key is validated",
            ),
            (replicas(1, 1, 2), &["Warning REPLICAS_MISSING"], "if one more goes, no change is answered OK"),
            (replicas(2, 1, 3), &["Warning REPLICAS_MISSING"], "1 more may go"),
            (
                replicas(2, 1, 1),
                &["Warning REPLICAS_UNCOUNTED"],
                "2 replicas follow the primary, and store.replicas says 1: a change may be confirmed by others",
            ),
            (replicas(3, 2, 2), &["Warning REPLICAS_UNCOUNTED"], "set store.replicas to the number that follow"),
            (Health { role: "replica".to_owned(), ..replicas(2, 1, 1) }, &["Error STORE_IS_REPLICA"], "the primary"),
            (replicas(1, 0, 0), &["Warning FAILOVER_LOSES"], "whose revocation it lacks passes again"),
        ];
        for (health, codes, text) in table {
            let (found, said) = found(Ok(health), Some(&fence(&[held()])));
            assert_eq!(found, codes, "{said}");
            assert!(said.contains(text), "{said}");
        }
    }

    #[test]
    fn of_leases() {
        let lost = || Standing { left: None, ..held() };
        let troubled = || Standing { trouble: Some(StoreError::Unavailable("WHY".to_owned())), ..lost() };
        let behind = |seconds| Standing { lag: 3, behind: Some(at(seconds)), ..held() };
        let young = |seconds| Standing { age: Some(at(seconds)), settled: false, ..held() };
        let table: [(&[Standing], &[&str], &str); 14] = [
            (&[held(), held()], &[], ""),
            (
                &[Standing::default()],
                &["Error NO_LEASE"],
                "of shard 0, and without one it validates no key there: the store has not confirmed one",
            ),
            (
                &[held(), troubled()],
                &["Error NO_LEASE"],
                "of shard 1, and without one it validates no key there: the store is out of reach: WHY",
            ),
            (&[troubled(), held(), lost()], &["Error NO_LEASE"], "the shards 0, 2"),
            (
                &[lost(), lost()],
                &["Error NO_LEASE"],
                "every shard, and without one it validates no key there: it was not renewed",
            ),
            (&[Standing { lag: 1, ..lost() }], &["Error NO_LEASE"], "1 entry of its log"),
            (
                &[Standing { trouble: Some(StoreError::Refused("TWO SERVERS".to_owned())), ..lost() }],
                &["Error NO_LEASE"],
                "TWO SERVERS → see that store.url leads to one primary and nowhere else",
            ),
            // A beat that failed while the lease still runs is no finding: the next one may renew it.
            (&[Standing { trouble: troubled().trouble, ..held() }], &[], ""),
            (&[behind(20)], &[], ""),
            (
                &[behind(21)],
                &["Warning LOG_LAGS"],
                "for 21s this replica has been behind in the log of shard 0, now by 3 entries",
            ),
            (&[Standing { left: None, ..behind(21) }], &["Error NO_LEASE", "Warning LOG_LAGS"], "3 entries of its log"),
            (
                &[young(2)],
                &["Info EPOCH_NOT_SETTLED"],
                "began 2s ago, as after a first start, a crash or a failover. Replicas may hold leases of the one before, so a revocation waits until these have ended: up to 1m 39s from now",
            ),
            (&[young(101)], &[], ""),
            (&[young(200), held()], &[], ""),
        ];
        for (shards, codes, text) in table {
            let (found, said) = found(Ok(healthy()), Some(&fence(shards)));
            assert_eq!(found, codes, "{said}");
            assert!(said.contains(text), "{said}");
        }
    }

    #[test]
    fn of_a_store_that_is_away() {
        let away = || Err(StoreError::Unavailable("GONE".to_owned()));
        let (codes, text) = found(away(), None);
        assert_eq!(codes, ["Error STORE_UNREACHABLE"]);
        assert!(text.contains("GONE. No key can be made, changed or validated"), "{text}");
        let (codes, text) = found(away(), Some(&fence(&[held(), Standing { left: Some(at(4)), ..held() }])));
        assert_eq!(codes, ["Error STORE_UNREACHABLE"]);
        assert!(text.contains("has in memory, for 4s more: then its lease ends"), "{text}");
        let (codes, text) = found(away(), Some(&fence(&[held(), Standing { left: None, ..held() }])));
        assert_eq!(codes, ["Error STORE_UNREACHABLE", "Error NO_LEASE"]);
        assert!(text.contains("No key can be made, changed or validated"), "{text}");
    }
}
