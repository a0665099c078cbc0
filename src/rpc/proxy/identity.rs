//! The header fields that tell an upstream whose key a request came with.

use std::fmt::Write as _;

use crate::key::KeyRecord;

/// Their names.
pub(in crate::rpc) const IDENTITY: [&str; 5] =
    ["x-keyclasp-owner", "x-keyclasp-owner-kind", "x-keyclasp-key-id", "x-keyclasp-realm", "x-keyclasp-scopes"];

/// Each with its value, in the order of [`IDENTITY`]; bytes outside of visible ASCII are percent-encoded.
/// Scopes are separated by spaces; the value of a key without scopes is empty.
pub(in crate::rpc) fn identity(record: &KeyRecord) -> [(&'static str, String); 5] {
    let owner = &record.owner.reference;
    let scopes: Vec<_> = record.scopes.as_slice().iter().map(|scope| scope.as_str()).collect();
    let [owner_name, kind_name, id_name, realm_name, scopes_name] = IDENTITY;
    [
        (owner_name, visible(owner.id())),
        (kind_name, owner.kind().name().to_owned()),
        (id_name, record.id.to_string()),
        (realm_name, visible(record.realm.as_str())),
        // Scopes are visible ASCII.
        (scopes_name, scopes.join(" ")),
    ]
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
pub(super) fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            visible.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(visible, "%{byte:02X}");
        }
    }
    visible
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
