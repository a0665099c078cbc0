//! The issuer: the URL by which OAuth clients know this service, and the URLs that follow from it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;

use crate::key::Invalid;

/// Where the metadata of an issuer without a path is (RFC 8414, section 3).
const WELL_KNOWN: &str = "/.well-known/oauth-authorization-server";

/// An issuer identifier (RFC 8414, section 2): an https URL without query and fragment; http for
/// loopback addresses too. Clients compare its text, so it is kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    text: String,
    /// Where its path begins, which ends with the text.
    path_at: usize,
}

impl Issuer {
    /// Parses `text`.
    ///
    /// # Errors
    /// When the text is not of that form.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let (after_scheme, secure) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (rest, true),
            (None, Some(rest)) => (rest, false),
            (None, None) => {
                return Err(Invalid::new("begin it with https://; with http:// on loopback addresses alone"));
            }
        };
        if after_scheme.contains(['?', '#']) {
            return Err(Invalid::new("write it without query and fragment"));
        }
        let path_at = text.len() - after_scheme.find('/').map_or(0, |at| after_scheme.len() - at);
        let (Some(authority), Some(path)) = (text.get(text.len() - after_scheme.len()..path_at), text.get(path_at..))
        else {
            return Err(Invalid::new("write it as https://HOST or https://HOST/PATH"));
        };
        if authority.contains('@') {
            return Err(Invalid::new("write it without a user name"));
        }
        let uri: Uri = text.parse().map_err(|_| Invalid::new("write it as https://HOST or https://HOST/PATH"))?;
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| Invalid::new("name a host: https://HOST"))?;
        let port = authority.get(host.len()..).unwrap_or_default();
        if !port.is_empty() && port.strip_prefix(':').is_none_or(|port| port.parse::<u16>().is_err()) {
            return Err(Invalid::new("write its port as a number: https://HOST:PORT"));
        }
        if !secure && !is_loopback(host) {
            return Err(Invalid::new(
                "begin it with https://: only on loopback addresses clear text stays on the machine",
            ));
        }
        if !is_plain(path) {
            return Err(Invalid::new(
                "write its path as plain segments: letters, digits, - . _ and ~, without %, // and ..",
            ));
        }
        Ok(Self { text: text.to_owned(), path_at })
    }

    /// The text, as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its path, without a slash at its end: empty, or such as `/keys`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.path_at..).unwrap_or_default().trim_end_matches('/')
    }

    /// The URL of what is at `path`, which begins with a slash, below the issuer.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.text.trim_end_matches('/'))
    }

    /// Where its metadata is: the well-known part comes before the issuer's own path (RFC 8414, section 3.1).
    #[must_use]
    pub fn metadata_path(&self) -> String {
        format!("{WELL_KNOWN}{}", self.path())
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// Whether what is sent to `host` stays on this machine (RFC 6761, section 6.3).
fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<Ipv4Addr>().is_ok_and(|address| IpAddr::V4(address).is_loopback())
        || bare.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback())
}

/// Whether `path` has one spelling, so that whoever stands between the client and here does not change it: unreserved
/// characters (RFC 3986, section 2.3), and no segment that is empty or a walk upwards, but for a slash at the end.
fn is_plain(path: &str) -> bool {
    let Some(segments) = path.strip_prefix('/') else { return path.is_empty() };
    let segments = segments.strip_suffix('/').unwrap_or(segments);
    path == "/"
        || segments.split('/').all(|segment| {
            let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            !matches!(segment, "" | "." | "..") && segment.bytes().all(unreserved)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_follow_from_the_issuer() {
        let table = [
            ("https://a.example", "", "https://a.example/x"),
            ("https://a.example/", "", "https://a.example/x"),
            ("https://a.example:8443/keys", "/keys", "https://a.example:8443/keys/x"),
            ("https://a.example/keys/", "/keys", "https://a.example/keys/x"),
            ("https://[2001:db8::1]/a/b.c~d_e-f", "/a/b.c~d_e-f", "https://[2001:db8::1]/a/b.c~d_e-f/x"),
            ("http://127.0.0.1:7413", "", "http://127.0.0.1:7413/x"),
            ("http://127.9.9.9", "", "http://127.9.9.9/x"),
            ("http://[::1]:1/a", "/a", "http://[::1]:1/a/x"),
            ("http://localhost:7413/", "", "http://localhost:7413/x"),
        ];
        for (text, path, url) in table {
            let issuer = Issuer::parse(text).unwrap();
            assert_eq!((issuer.as_str(), issuer.path(), issuer.url("/x").as_str()), (text, path, url));
            assert_eq!(issuer.metadata_path(), format!("/.well-known/oauth-authorization-server{path}"));
        }
    }

    #[test]
    fn what_is_no_issuer_is_refused_with_a_remedy() {
        let table = [
            ("", "https://"),
            ("a.example", "https://"),
            ("HTTPS://a.example", "https://"),
            ("ftp://a.example", "https://"),
            ("https://", "HOST"),
            ("https:///a", "HOST"),
            ("https://:443", "HOST"),
            ("https://a b", "HOST"),
            ("https://a.example:x", "PORT"),
            ("https://a.example:", "PORT"),
            ("https://a.example:65536", "PORT"),
            ("https://a.example?x", "query"),
            ("https://a.example/?", "query"),
            ("https://a.example/#", "fragment"),
            ("https://u:p@a.example", "user name"),
            ("http://a.example", "loopback"),
            ("http://localhost.a.example", "loopback"),
            ("http://128.0.0.1", "loopback"),
            ("http://[2001:db8::1]", "loopback"),
            ("https://a.example//", "segments"),
            ("https://a.example/a//b", "segments"),
            ("https://a.example/a/../b", "segments"),
            ("https://a.example/./b", "segments"),
            ("https://a.example/%61", "segments"),
            ("https://a.example/a;b", "segments"),
        ];
        for (text, remedy) in table {
            let error = Issuer::parse(text).unwrap_err().to_string();
            assert!(error.contains(remedy), "{text}: {error}");
        }
    }
}
