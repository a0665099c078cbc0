//! The use cases over a store, in this process, without a wire.

use std::sync::Arc;
use std::time::Duration;

use keyclasp::clock::{Clock, SystemClock};
use keyclasp::fence::{Fence, Member};
use keyclasp::hash::{Hasher, Keyring, Pepper};
use keyclasp::key::{Argon2Profile, PepperId, SecretBytes};
use keyclasp::random::OsEntropy;
use keyclasp::service::{Parts, Policies, Service, ServiceMetrics};
use keyclasp::store::embedded::EmbeddedConfig;
use keyclasp::store::{MemberId, Store};

use super::TempDir;

/// A process of its own, by the real clock.
pub(crate) fn member() -> Member {
    let id = keyclasp::random::bytes(&OsEntropy).unwrap();
    Member { id: MemberId(id), clock: Arc::new(SystemClock::new()) }
}

/// The use cases, and what they stand on.
pub(crate) struct Api {
    pub(crate) service: Service,
    _dir: TempDir,
}

impl Api {
    /// Over an embedded store of its own.
    pub(crate) fn embedded() -> Self {
        Self::embedded_at(Arc::new(SystemClock::new()))
    }

    /// The same, with a clock of the test's own.
    pub(crate) fn embedded_at(clock: Arc<dyn Clock>) -> Self {
        let dir = TempDir::new();
        let store = EmbeddedConfig::new(dir.path()).open(&OsEntropy).unwrap();
        Self { service: Self::over(Arc::new(store), clock), _dir: dir }
    }

    fn over(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Service {
        let id = PepperId::parse("p1").unwrap();
        let keyring = Keyring::new(vec![Pepper::new(id.clone(), &SecretBytes::new([7; 32]))], &id).unwrap();
        Service::new(Parts {
            records: Arc::new(Fence::new(Arc::clone(&store), 64 << 20, member())),
            store,
            hasher: Arc::new(Hasher::new(keyring, Argon2Profile::LIGHT, &OsEntropy).unwrap()),
            clock,
            entropy: Arc::new(OsEntropy),
            policies: Policies::default(),
            retention: Duration::from_secs(90 * 86_400),
            metrics: ServiceMetrics::new(),
        })
    }
}
