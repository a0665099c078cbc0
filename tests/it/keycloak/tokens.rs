//! Access tokens of owners.

use keyclasp::clock::{Clock as _, SystemClock};
use keyclasp::keycloak::{AccessToken, Bounds, KeycloakRealm, Mint, MintError, Minter, SigningKey, SigningKeys};
use keyclasp::random::OsEntropy;
use serde_json::json;

use crate::support::keycloak::{Keycloak, Realm};

const ISSUER: &str = "https://keys.example.com";
const CLIENT: &str = "keyclasp-mint";

/// A realm in which tokens can be made, and who makes them.
struct World {
    realm: Realm,
    there: KeycloakRealm,
    keys: SigningKeys,
    mint: Mint,
    clock: SystemClock,
}

impl World {
    fn new() -> Self {
        let keys = SigningKeys::new(vec![SigningKey::parse(&SigningKey::generate().unwrap()).unwrap()]).unwrap();
        let keycloak = Keycloak::shared();
        let realm = keycloak.realm(ISSUER, &keys.jwks());
        realm.minting_client(CLIENT, &keys.jwks());
        let there = KeycloakRealm::new(&keycloak.url(), &keycloak.url(), &realm.name).unwrap();
        let minter = Minter { issuer: ISSUER.to_owned(), client_id: CLIENT.to_owned() };
        let mint = Mint::new(minter, Bounds::default()).unwrap();
        Self { realm, there, keys, mint, clock: SystemClock::new() }
    }

    fn linked(&self, name: &str) -> String {
        let id = self.realm.user(name);
        self.realm.link(&id, &id);
        id
    }

    async fn token(&self, subject: &str, scope: &str) -> Result<AccessToken, MintError> {
        let key = self.keys.current().unwrap();
        self.mint.token(&self.there, subject, scope, key, self.clock.now(), &OsEntropy).await
    }

    fn update(&self, user: &str, with: &serde_json::Value) {
        self.realm.done("PUT", &format!("/users/{user}"), Some(with));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_owner_gets_a_token_that_keycloak_takes_for_its_own() {
    let world = World::new();
    let ada = world.linked("ada");
    let token = world.token(&ada, "openid").await.unwrap();
    let left = token.expires_at.since(world.clock.now());
    assert!((50..=60).contains(&left.as_secs()), "{left:?}");
    let told = world.realm.get("/protocol/openid-connect/userinfo", Some(token.expose()));
    assert_eq!((told.status, &told.json()["sub"]), (200, &json!(ada)), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_gets_none_is_told_why() {
    let world = World::new();
    let refused = async |subject: &str, scope: &str| world.token(subject, scope).await.unwrap_err();
    let stranger = world.realm.user("stranger");
    assert_eq!(refused(&stranger, "").await, MintError::NotLinked);
    assert_eq!(refused("00000000-0000-4000-8000-000000000000", "").await, MintError::NotLinked);
    let bob = world.linked("bob");
    assert!(matches!(refused(&bob, "no-such-scope").await, MintError::Scope(_)));
    world.update(&bob, &json!({ "requiredActions": ["UPDATE_PASSWORD"] }));
    assert_eq!(refused(&bob, "").await, MintError::ActionRequired);
    world.update(&bob, &json!({ "requiredActions": [], "enabled": false }));
    assert_eq!(refused(&bob, "").await, MintError::OwnerDisabled);
    world.update(&bob, &json!({ "enabled": true }));
    assert!(world.token(&bob, "").await.is_ok());
    world.realm.done("DELETE", &format!("/users/{bob}"), None);
    assert_eq!(refused(&bob, "").await, MintError::NotLinked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_not_set_up_is_said() {
    let world = World::new();
    let ada = world.linked("ada");
    let other = SigningKey::parse(&SigningKey::generate().unwrap()).unwrap();
    let refused = world.mint.token(&world.there, &ada, "", &other, world.clock.now(), &OsEntropy).await;
    assert!(matches!(refused, Err(MintError::Misconfigured(_))), "{refused:?}");
    let nowhere = KeycloakRealm::new(&Keycloak::shared().url(), &Keycloak::shared().url(), "nowhere").unwrap();
    let key = world.keys.current().unwrap();
    let refused = world.mint.token(&nowhere, &ada, "", key, world.clock.now(), &OsEntropy).await;
    assert!(matches!(refused, Err(MintError::Misconfigured(_))), "{refused:?}");
    // A port at which nobody listens.
    let nobody = KeycloakRealm::new("http://127.0.0.1:1", "http://127.0.0.1:1", "acme").unwrap();
    let refused = world.mint.token(&nobody, &ada, "", key, world.clock.now(), &OsEntropy).await;
    assert!(matches!(refused, Err(MintError::Unavailable(_))), "{refused:?}");
}
