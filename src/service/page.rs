//! Page tokens: opaque to callers, bound to the list that they came from.

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};

use super::error::{Error, ErrorKind};

/// How many entries a page holds where the caller does not say.
pub const DEFAULT_PAGE: usize = 50;
/// Most entries of a page.
pub const MAX_PAGE: usize = 500;

/// Bytes of the digest that binds a token to its list.
const BINDING_LEN: usize = 8;

/// What a token is bound to: a digest of everything that makes the list what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Binding([u8; BINDING_LEN]);

impl Binding {
    /// Of the list that `description` describes: its kind, then its filters, in any one form.
    pub(super) fn new(description: &str) -> Self {
        let digest = Sha256::digest(description);
        let mut binding = [0; BINDING_LEN];
        binding.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Self(binding)
    }
}

/// A token for the place `cursor`.
pub(super) fn write(binding: Binding, cursor: &[u8]) -> String {
    BASE64URL_NOPAD.encode(&[&binding.0, cursor].concat())
}

/// The place that `token` names; none for the empty token, which is the beginning.
pub(super) fn read(binding: Binding, token: &str) -> Result<Option<Vec<u8>>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    BASE64URL_NOPAD
        .decode(token.as_bytes())
        .ok()
        .and_then(|bytes| bytes.strip_prefix(&binding.0).map(<[u8]>::to_vec))
        .map(Some)
        .ok_or_else(invalid)
}

/// The token is not one of this list.
pub(super) fn invalid() -> Error {
    Error::new(
        ErrorKind::PageTokenInvalid,
        "page_token: is not one of this list; pass next_page_token as it was answered, with the same filters",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_own_list_alone() {
        let (here, there) = (Binding::new("a"), Binding::new("b"));
        let token = write(here, b"place");
        assert_eq!(read(here, &token).unwrap().unwrap(), b"place");
        assert_eq!(read(there, &token).unwrap_err().kind, ErrorKind::PageTokenInvalid);
        assert_eq!(read(here, "not base64!").unwrap_err().kind, ErrorKind::PageTokenInvalid);
        assert_eq!(read(here, "").unwrap(), None);
    }
}
