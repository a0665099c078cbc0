//! What a store refuses, and the extremes that it must take.

use super::sample::{self, DAY, SECOND, holder};
use super::{Harness, audit_all, done, list_all, scan_all};
use crate::key::codec::{CodecError, FORMAT, encode_record};
use crate::key::{
    Action, Actor, Cidrs, Description, Event, KeyRecord, Metadata, Name, Owner, OwnerKind, OwnerRef, Prefix,
    Principals, Realm, Reason, Revocation, Scopes, Suspension, SuspensionReason,
};
use crate::store::{AuditFilter, AuditQuery, Commit, Effect, MAX_WRITES, Outcome, StoreError, shard_of};

/// A caller's bug is refused as one, and writes nothing.
pub async fn misuse_is_refused(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let write = |n| sample::creation(&ada.record(n, now));
    let empty = Commit { bucket: ada.bucket(), ..sample::commit(Vec::new()) };
    let event = sample::event(&ada.record(1, now), Action::Created);
    let idempotency = Some(sample::first_try(1, ada.id(1), now));
    let cases = [
        ("too many writes", sample::commit((0..257).map(write).collect())),
        ("nothing to write", empty.clone()),
        ("events alone", Commit { events: vec![event], idempotency, ..empty }),
        ("one record twice", sample::commit(vec![write(1), write(2), write(1)])),
    ];
    for (what, commit) in cases {
        let answer = store.commit(&commit, now).await;
        assert!(matches!(answer, Err(StoreError::Misuse(_))), "{what}: {answer:?}");
    }
    assert_eq!(scan_all(&*store, now).await.unwrap(), []);
    let shards = store.shards();
    assert!(matches!(store.log(shards, None, 1).await, Err(StoreError::Misuse(_))));
    let filter = AuditFilter::default();
    let query = AuditQuery { shard: shards, after: None, newest_first: false, filter, limit: 1 };
    assert!(matches!(store.audit(&query).await, Err(StoreError::Misuse(_))));
}

/// Records and guards of another shard are a misuse; those of another bucket in the same shard
/// are not.
pub async fn a_commit_stays_in_its_shard(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let shards = store.shards();
    assert!(shards.is_power_of_two() && shards <= 256);
    let ada = holder("acme", "ada");
    let shard = |bucket| shard_of(bucket, shards);
    let others = (0..500).map(|n| holder("acme", &format!("o{n}"))).filter(|one| one.bucket() != ada.bucket());
    let (near, far): (Vec<_>, Vec<_>) = others.partition(|one| shard(one.bucket()) == shard(ada.bucket()));
    if let Some(far) = far.first() {
        let own = sample::creation(&ada.record(1, now));
        let both = sample::commit(vec![own.clone(), sample::creation(&far.record(1, now))]);
        let guard = Commit { guard: Some(far.guard(1)), ..sample::commit(vec![own]) };
        for commit in [both, guard] {
            let answer = store.commit(&commit, now).await;
            assert!(matches!(answer, Err(StoreError::Misuse(_))), "{answer:?}");
        }
        assert_eq!(store.get(ada.id(1), now).await.unwrap(), None);
    }
    if let Some(near) = near.first() {
        let (own, other) = (ada.record(2, now), near.record(2, now));
        done(&*store, &sample::commit(vec![sample::creation(&own), sample::creation(&other)]), now).await;
        assert_eq!(store.get(other.id, now).await.unwrap().as_ref().map(|found| &*found.record), Some(&other));
    }
}

/// What another version wrote, or what is damaged, is refused loudly and never written over.
pub async fn an_unknown_format_is_refused_and_kept(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let good = encode_record(&ada.record(1, now), None);
    let newer: Vec<u8> = std::iter::once(FORMAT + 1).chain(good.iter().copied().skip(1)).collect();
    for (n, bytes) in [(1, newer.clone()), (2, vec![0]), (3, good[..9].to_vec())] {
        let record = ada.record(n, now);
        harness.plant(record.id, &bytes).await;
        for commit in [sample::create(&record), sample::update(&sample::renamed(&record, "x"))] {
            let answer = store.commit(&commit, now).await;
            assert!(matches!(answer, Err(StoreError::Unreadable { .. })), "{n}: {answer:?}");
        }
        let read = store.get(record.id, now).await;
        assert!(matches!(read, Err(StoreError::Unreadable { .. })), "{n}: {read:?}");
    }
    let read = store.get(ada.id(1), now).await;
    assert!(
        matches!(&read, Err(StoreError::Unreadable { error: CodecError::UnknownFormat(format), .. }) if *format == FORMAT + 1),
        "{read:?}"
    );
    // A header that reads well, before a message that does not.
    harness.plant(ada.id(4), &[&good[..17], &[0xff, 0xff]].concat()).await;
    assert!(matches!(store.get(ada.id(4), now).await, Err(StoreError::Unreadable { .. })));
    assert!(matches!(scan_all(&*store, now).await, Err(StoreError::Unreadable { .. })), "a scan must not skip it");
    // The others are served on.
    done(&*store, &sample::create(&ada.record(5, now)), now).await;
    assert!(store.get(ada.id(5), now).await.unwrap().is_some());
}

/// A record whose every field is as long as it may be, in characters of four bytes where it may be.
fn largest(owner: &str, n: u32, now: crate::clock::Timestamp) -> KeyRecord {
    let wide = |length: usize| "🔑".repeat(length);
    let owner = OwnerRef::parse(OwnerKind::External, &format!("{owner}{}", wide(255 - owner.len()))).unwrap();
    let realm = Realm::parse(&wide(255)).unwrap();
    let holder = sample::Holder { realm, owner: owner.clone() };
    let actor = Actor::parse(&wide(255)).unwrap();
    let suspension = Suspension {
        by: actor.clone(),
        at: now,
        until: Some(now.after(DAY)),
        note: Reason::parse(&wide(512)).unwrap(),
    };
    let scopes: Vec<_> = (0..Scopes::MAX).map(|n| format!("{n:0>128}")).collect();
    let cidrs: Vec<_> =
        (0..Cidrs::MAX).map(|n| format!("2001:db8:1111:2222:3333:4444:5555:{:x}/128", 0x1000 + n)).collect();
    let principals: Vec<_> = (0..Principals::MAX).map(|n| format!("{n:0>3}{}", wide(252))).collect();
    let metadata = (0..Metadata::MAX).map(|n| (format!("{n:0>4}{}", wide(15)), wide(128)));
    KeyRecord {
        owner: Owner { reference: owner, display_name: Name::parse(&wide(128)).unwrap() },
        name: Name::parse(&wide(128)).unwrap(),
        description: Description::parse(&wide(1024)).unwrap(),
        scopes: Scopes::parse(&scopes).unwrap(),
        prefix: Prefix::parse(&"p".repeat(24)).unwrap(),
        created_by: actor.clone(),
        not_before: Some(now),
        expires_at: Some(crate::clock::Timestamp::MAX),
        revocation: Some(Revocation { at: now, by: actor, reason: Reason::parse(&wide(512)).unwrap() }),
        suspensions: SuspensionReason::ALL.into_iter().map(|reason| (reason, suspension.clone())).collect(),
        allowed_cidrs: Cidrs::parse(&cidrs).unwrap(),
        allowed_principals: Principals::parse(&principals).unwrap(),
        rotated_from: Some(holder.id(n + 1)),
        rotated_to: Some(holder.id(n + 2)),
        metadata: Metadata::parse(metadata).unwrap(),
        version: u64::MAX - 1,
        ..holder.record(n, now)
    }
}

/// Every field at its limit, many times in one commit, with an event at its limit beside each.
pub async fn records_at_every_limit(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let records: Vec<_> = (0..32).map(|n| largest("x", n * 10, now)).collect();
    let events: Vec<_> = records
        .iter()
        .map(|record| Event {
            actor: record.created_by.clone(),
            reason: Reason::parse(&"🔑".repeat(512)).unwrap(),
            origin: "🔑".repeat(255),
            fields: vec!["allowed_principals".to_owned(); 20],
            ..sample::event(record, Action::Rotated)
        })
        .collect();
    let commit = Commit { events: events.clone(), ..sample::commit(records.iter().map(sample::creation).collect()) };
    done(&*store, &commit, now).await;
    for record in &records {
        assert_eq!(store.get(record.id, now).await.unwrap().as_ref().map(|found| &*found.record), Some(record));
    }
    let query = sample::Holder { realm: records[0].realm.clone(), owner: records[0].owner.reference.clone() };
    assert_eq!(list_all(&*store, &query.list(7), now).await, super::sorted(records.clone()));
    let shard = shard_of(records[0].id.bucket(), store.shards());
    let query = AuditQuery { shard, after: None, newest_first: false, filter: AuditFilter::default(), limit: 100 };
    let found: Vec<_> = audit_all(&*store, &query).await.into_iter().map(|(_, event)| event).collect();
    assert_eq!(found, events);
    let last = KeyRecord { version: u64::MAX, ..records[0].clone() };
    done(&*store, &sample::commit(vec![sample::change(&last)]), now).await;
    assert_eq!(store.get(last.id, now).await.unwrap().as_ref().map(|found| &*found.record), Some(&last));
    let stale = KeyRecord { version: u64::MAX - 1, ..last };
    assert_eq!(store.commit(&sample::commit(vec![sample::change(&stale)]), now).await.unwrap(), Outcome::Conflict);
}

/// As many writes as a commit may have; then as many that take away.
pub async fn the_largest_commit(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let ada = holder("acme", "ada");
    let records: Vec<_> = (0..256).map(|n| ada.record(n, now)).collect();
    assert_eq!(records.len(), MAX_WRITES);
    let events = |records: &[KeyRecord], action| records.iter().map(|record| sample::event(record, action)).collect();
    let created = Commit {
        events: events(&records, Action::Created),
        guard: Some(ada.guard(256)),
        idempotency: Some(sample::first_try(1, records[0].id, now)),
        ..sample::commit(records.iter().map(sample::creation).collect())
    };
    assert_eq!(done(&*store, &created, now).await.position, 256);
    let revoked: Vec<_> = records.iter().map(|record| sample::revoked(record, now)).collect();
    let taken = Commit {
        events: events(&revoked, Action::Revoked),
        effect: Effect::TakesAway,
        ..sample::commit(revoked.iter().map(sample::change).collect())
    };
    assert_eq!(done(&*store, &taken, now).await.position, 512);
    assert_eq!(list_all(&*store, &ada.list(500), now).await, super::sorted(revoked));
}

/// Texts come back byte for byte; owners that differ in nothing but a normal form are two.
pub async fn unicode_comes_back_as_it_was(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let names = [
        "\u{e9}",
        "e\u{301}",
        "\u{3a9}",
        "\u{2126}",
        "ﬁ",
        "🔑",
        "عربى",
        "a\u{200b}b",
        " a ",
        "%00",
        "{s00}",
        "a:b*",
        "'\"\\",
    ];
    for (n, name) in (0..).zip(names) {
        let holder = holder(name, name);
        let mut record = holder.record(n, now);
        record.name = Name::parse(name).unwrap();
        record.description = Description::parse(&format!("{name}\n\t{name}")).unwrap();
        record.metadata = Metadata::parse([(name, name)]).unwrap();
        record.allowed_principals = Principals::parse(&[name]).unwrap();
        done(&*store, &sample::create(&record), now).await;
        assert_eq!(store.get(record.id, now).await.unwrap().as_ref().map(|found| &*found.record), Some(&record));
        assert_eq!(list_all(&*store, &holder.list(10), now).await, std::slice::from_ref(&record));
        assert_eq!(list_all(&*store, &holder.list_realm(10), now.after(SECOND)).await, [record]);
    }
}

/// The first check of a pepper counts until it is removed.
pub async fn pepper_checks_are_written_once(harness: &dyn Harness) {
    let store = harness.store();
    let id = |text: &str| crate::key::PepperId::parse(text).unwrap();
    assert_eq!(store.pepper_checks().await.unwrap(), []);
    assert_eq!(store.add_pepper_check(&id("p1"), [1; 32]).await.unwrap(), [1; 32]);
    assert_eq!(store.add_pepper_check(&id("p1"), [9; 32]).await.unwrap(), [1; 32]);
    assert_eq!(store.add_pepper_check(&id("p2-0123456789abc"), [2; 32]).await.unwrap(), [2; 32]);
    let mut checks = store.pepper_checks().await.unwrap();
    checks.sort();
    assert_eq!(checks, [(id("p1"), [1; 32]), (id("p2-0123456789abc"), [2; 32])]);
    store.remove_pepper_check(&id("p1")).await.unwrap();
    store.remove_pepper_check(&id("p1")).await.unwrap();
    assert_eq!(store.pepper_checks().await.unwrap(), [(id("p2-0123456789abc"), [2; 32])]);
    assert_eq!(store.add_pepper_check(&id("p1"), [3; 32]).await.unwrap(), [3; 32]);
}

/// Health names an epoch per shard, and says in words what a crash can lose.
pub async fn health_speaks_of_every_shard(harness: &dyn Harness) {
    let (store, now) = (harness.store(), harness.now());
    let health = store.health(now).await.unwrap();
    assert_eq!(health.epochs.len(), usize::from(store.shards()));
    assert!(!health.durability.text().is_empty() && !health.version.is_empty());
    let again = store.health(now).await.unwrap();
    assert_eq!(again.epochs, health.epochs);
    let identity = store.identity();
    assert!(!identity.kind.is_empty() && !identity.location.is_empty());
}
