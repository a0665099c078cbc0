//! The use cases of one process over a store that a test can meddle with, and the calls that tests make.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyclasp::clock::Clock;
use keyclasp::fence::Fence;
use keyclasp::hash::{Hasher, Keyring, Pepper};
use keyclasp::key::{
    Actor, ApiKey, Argon2Profile, Caps, Cidrs, Description, Draft, KeyId, Lifetime, Metadata, Name, Owner, OwnerKind,
    OwnerRef, PepperId, Principals, Realm, Reason, Scopes, SecretBytes,
};
use keyclasp::random::OsEntropy;
use keyclasp::service::access::{Call, Grant, Principal, Realms, Role};
use keyclasp::service::lifecycle::Changed;
use keyclasp::service::validate::{Check, Checked, Outcome};
use keyclasp::service::{Error, Held, Parts, Policies, Service, ServiceMetrics};
use keyclasp::store::Store;

use super::api::member;
use super::meddled::Meddled;

/// A call of somebody who may do everything.
pub(crate) fn call() -> Call {
    let principal = Principal {
        name: Actor::parse("tester").unwrap(),
        grants: vec![Grant { role: Role::Admin, realms: Realms::All }],
        caps: Caps::default(),
    };
    Call { principal: Arc::new(principal), origin: "192.0.2.1".into(), ends: None }
}

/// One process.
pub(crate) struct World {
    pub(crate) service: Service,
    pub(crate) store: Arc<Meddled>,
    pub(crate) records: Arc<Fence<Held>>,
    pub(crate) hasher: Arc<Hasher>,
    pub(crate) call: Call,
    pub(crate) clock: Arc<dyn Clock>,
    checks: AtomicU64,
}

impl World {
    /// Over `store`. All have the same pepper, so one knows the keys of the other.
    pub(crate) fn over(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let store = Arc::new(Meddled::new(store));
        let id = PepperId::parse("p1").unwrap();
        let keyring = Keyring::new(vec![Pepper::new(id.clone(), &SecretBytes::new([7; 32]))], &id).unwrap();
        let hasher = Arc::new(Hasher::new(keyring, Argon2Profile { m_kib: 8, t: 1, p: 1 }, &OsEntropy).unwrap());
        let dynamic = Arc::clone(&store) as Arc<dyn Store>;
        let member = member();
        let records = Arc::new(Fence::new(Arc::clone(&dynamic), 64 << 20, member.clone()));
        let service = Service::new(Parts {
            records: Arc::clone(&records),
            store: dynamic,
            hasher: Arc::clone(&hasher),
            clock,
            entropy: Arc::new(OsEntropy),
            policies: Policies::default(),
            retention: Duration::from_secs(3600),
            metrics: ServiceMetrics::new(),
        });
        let call = call();
        let clock = member.clock;
        Self { service, store, records, hasher, call, clock, checks: AtomicU64::new(0) }
    }

    /// A new key.
    pub(crate) async fn key(&self, lifetime: Option<Lifetime>) -> (KeyId, ApiKey) {
        self.make("ada", lifetime).await.unwrap()
    }

    /// The same, if the store takes it.
    pub(crate) async fn try_key(&self) -> Option<(KeyId, ApiKey)> {
        self.make("ada", None).await.ok()
    }

    /// A new key of somebody: whose key it is says in which shard it lies.
    pub(crate) async fn key_of(&self, owner: &str) -> (KeyId, ApiKey) {
        self.make(owner, None).await.unwrap()
    }

    async fn make(&self, owner: &str, lifetime: Option<Lifetime>) -> Result<(KeyId, ApiKey), Error> {
        let draft = Draft {
            realm: Realm::parse("acme").unwrap(),
            owner: Owner {
                reference: OwnerRef::parse(OwnerKind::External, owner).unwrap(),
                display_name: Name::parse("").unwrap(),
            },
            name: Name::parse("a key").unwrap(),
            description: Description::parse("").unwrap(),
            scopes: Scopes::parse(&[] as &[&str]).unwrap(),
            lifetime,
            not_before: None,
            allowed_cidrs: Cidrs::parse(&[] as &[&str]).unwrap(),
            allowed_principals: Principals::parse(&[] as &[&str]).unwrap(),
            metadata: Metadata::parse(std::iter::empty::<(&str, &str)>()).unwrap(),
        };
        let created = self.service.keys.create(&self.call, draft, None).await?;
        Ok((created.key.record.id, created.text.unwrap()))
    }

    /// What a check of a key comes to.
    pub(crate) async fn try_check(&self, text: &ApiKey) -> Result<Outcome, Error> {
        Ok(self.checked(text).await?.outcome)
    }

    /// A check, every other one of which names the realm: such a one has a shorter way through what is in memory.
    async fn checked(&self, text: &ApiKey) -> Result<Checked, Error> {
        let realm = Realm::parse("acme").unwrap();
        let realm = self.checks.fetch_add(1, Ordering::Relaxed).is_multiple_of(2).then_some(&realm);
        let check = Check { text, realm, required_scopes: &[], source_address: None, source_principal: None };
        self.service.validator.validate(&self.call, &check).await
    }

    /// The same, where a decision must come of it.
    pub(crate) async fn check(&self, text: &ApiKey) -> Outcome {
        self.try_check(text).await.unwrap()
    }

    /// The version of the record that a check sees.
    pub(crate) async fn version(&self, text: &ApiKey) -> u64 {
        self.checked(text).await.unwrap().record.unwrap().record().version
    }

    /// Ends a key, whatever comes of it.
    pub(crate) async fn try_revoke(&self, id: KeyId) -> Result<Changed, Error> {
        self.service.keys.revoke(&self.call, id, Reason::parse("").unwrap(), None).await
    }

    /// Ends a key.
    pub(crate) async fn revoke(&self, id: KeyId) -> Changed {
        self.try_revoke(id).await.unwrap()
    }

    /// Suspends a key.
    pub(crate) async fn suspend(&self, id: KeyId) -> Changed {
        self.service.keys.suspend(&self.call, id, Reason::parse("").unwrap(), None).await.unwrap()
    }

    /// Lifts that.
    pub(crate) async fn resume(&self, id: KeyId) -> Changed {
        self.service.keys.resume(&self.call, id, Reason::parse("").unwrap()).await.unwrap()
    }
}
