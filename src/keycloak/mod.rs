//! Keycloak, as keyclasp asks it: assertions about owners, and the tokens that it gives for them.
//!
//! keyclasp is the issuer of an identity provider of Keycloak's and signs short assertions; Keycloak makes
//! access tokens of them by its JWT authorization grant (RFC 7523). Knows nothing of a key's life.

mod assertion;
mod http;
mod signing;
mod tokens;

pub use assertion::{Assertion, Claims, LONGEST_ASSERTION};
pub use http::{Bounds, HttpError};
pub use signing::{SigningKey, SigningKeyError, SigningKeys};
pub use tokens::{AccessToken, KeycloakRealm, Mint, MintError, Minter};
