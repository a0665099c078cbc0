//! `[oauth2]`: how OAuth clients know the service.

use std::path::Path;

use super::setting::{Fault, Setting, section};
use super::source::Raw;
use super::types::{parsed, text};
use crate::rpc::oauth2::Issuer;

section! {
    /// How OAuth clients and resource servers know the service. `/oauth2/introspect` and `/oauth2/revoke` are there
    /// without it.
    ["oauth2"] pub(super) struct OAuth2 {
        /// The URL by which they reach it: https, or http on a loopback address; without query and fragment. With
        /// it there is a metadata document (`/.well-known/oauth-authorization-server`, then the path of this URL),
        /// whose URLs begin with it, and introspection says `iss`.
        issuer: Option<Issuer>,
    }
    check |_, _| {}
}

parsed!(Issuer, "the URL of an issuer", "\"https://keys.example.com\"", Issuer::parse);
