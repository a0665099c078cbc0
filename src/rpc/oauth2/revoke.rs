//! `POST /oauth2/revoke` (RFC 7009): whoever holds a key may end it, in the way of RevokeOwnKey.
//!
//! Open to everybody; `service/own.rs` bounds what that can cost.

use std::time::Duration;

use crate::key::{ApiKey, Reason};
use crate::rpc::urlencoded;
use crate::service::{Error, ErrorKind, Service};

/// Reads a form (section 2.1): the key. The hint would only say where to look first.
///
/// # Errors
/// When the form is not such a request; holds nothing of the token.
pub(super) fn parse(form: &[u8]) -> Result<ApiKey, Error> {
    let [token, _hint] = urlencoded::parameters(form, ["token", "token_type_hint"]).map_err(super::malformed)?;
    super::token(token)
}

/// Ends `key`. Once this returns, no replica lets it pass.
///
/// # Errors
/// When it may still pass somewhere: the store did not answer, or not every replica did in time.
pub(super) async fn revoke(service: &Service, key: &ApiKey, origin: &str, ends: Option<Duration>) -> Result<(), Error> {
    match service.own.revoke(key, Reason::from_static(""), origin, ends).await {
        Ok(_) => Ok(()),
        // What the client wants is the case: the text lets nobody pass (section 2.2).
        Err(error) if error.kind == ErrorKind::KeyNotRecognized => Ok(()),
        Err(error) => Err(error),
    }
}
