//! The header fields that tell an upstream whose key a request came with.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::key::Brief;
use crate::rpc::ascii;

/// Their names.
pub(in crate::rpc) const IDENTITY: [&str; 5] =
    ["x-keyclasp-owner", "x-keyclasp-owner-kind", "x-keyclasp-key-id", "x-keyclasp-realm", "x-keyclasp-scopes"];

/// Whose key a request came with.
#[derive(Debug)]
pub(in crate::rpc) struct Identity<'a> {
    brief: &'a Brief,
    owner: Cow<'a, str>,
    realm: Cow<'a, str>,
}

impl<'a> Identity<'a> {
    pub(in crate::rpc) fn of(brief: &'a Brief) -> Self {
        Self { brief, owner: visible(brief.owner()), realm: visible(brief.realm()) }
    }

    /// The fields with their values, in the order of [`IDENTITY`]; bytes outside of visible ASCII are percent-encoded.
    /// Scopes, which are visible ASCII, are separated by spaces; the value of a key without scopes is empty.
    pub(in crate::rpc) fn fields(&self) -> [(&'static str, &str); IDENTITY.len()] {
        let [owner, kind, id, realm, scopes] = IDENTITY;
        [
            (owner, &self.owner),
            (kind, self.brief.owner_kind().name()),
            (id, self.brief.key_id()),
            (realm, &self.realm),
            (scopes, self.brief.scopes()),
        ]
    }
}

/// Whether an upstream could take a field of this name for one of them: CGI and WSGI know no difference
/// between `-` and `_`, nor between cases, and some servers none between all that is no letter and no digit.
pub(in crate::rpc) fn is_identity(name: &[u8]) -> bool {
    /// What they begin with.
    const STEM: usize = "x-keyclasp-".len();
    // Nearly every field ends here.
    name.len() > STEM
        && matches!(name.first(), Some(b'x' | b'X'))
        && IDENTITY.iter().any(|known| {
            let same = |(known, byte): (u8, &u8)| {
                if byte.is_ascii_alphanumeric() { known == byte.to_ascii_lowercase() } else { known == b'-' }
            };
            known.len() == name.len() && known.bytes().zip(name).all(same)
        })
}

/// `text` with every byte outside of visible ASCII, and `%` itself, percent-encoded (RFC 3986, section 2.1).
pub(super) fn visible(text: &str) -> Cow<'_, str> {
    let stays = |byte: u8| byte.is_ascii_graphic() && byte != b'%';
    if ascii::is_visible(text.as_bytes()) && !text.as_bytes().contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let mut visible = String::with_capacity(text.len());
    for byte in text.bytes() {
        if stays(byte) {
            visible.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(visible, "%{byte:02X}");
        }
    }
    Cow::Owned(visible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_upstream_could_take_for_an_identity_is_one() {
        for name in IDENTITY {
            let other = ["_", ".", "~"].map(|byte| name.replace('-', byte));
            let mixed = [name.to_owned(), name.to_uppercase(), name.replacen('-', "_", 1)];
            for spelling in other.into_iter().chain(mixed) {
                assert!(is_identity(spelling.as_bytes()), "{spelling}");
            }
        }
        for other in ["", "x", "x-keyclasp", "x-keyclasp-", "x-keyclasp-ownerx", "x-keyclasp-0wner", "y-keyclasp-owner"]
        {
            assert!(!is_identity(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn values_are_visible_ascii() {
        assert_eq!(visible("a b%é\"\\"), "a%20b%25%C3%A9\"\\");
        assert_eq!(visible(""), "");
    }
}
