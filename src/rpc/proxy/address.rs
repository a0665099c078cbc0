//! From where a request came, behind proxies.

use std::net::{IpAddr, SocketAddr};

use super::Field;
use crate::key::Cidrs;

/// Most entries that are looked at: a longer way than any request takes.
const MOST_HOPS: usize = 64;

/// The client of a request that came from `peer`: where that is a trusted proxy, the rightmost entry of
/// X-Forwarded-For that is none. An entry that cannot be read ends the search: the last proxy before it.
pub(super) fn client(peer: IpAddr, fields: &[Field<'_>], trusted: &Cidrs) -> IpAddr {
    let mut client = peer.to_canonical();
    if trusted.is_empty() || !trusted.contain(client) {
        return client;
    }
    let forwarded = fields.iter().rev().filter(|field| field.name == b"x-forwarded-for");
    let entries = forwarded.flat_map(|field| field.value.rsplit(|byte| *byte == b','));
    for entry in entries.take(MOST_HOPS) {
        let Some(address) = read(entry) else { break };
        client = address;
        if !trusted.contain(client) {
            break;
        }
    }
    client
}

/// An address, perhaps with a port.
pub(in crate::rpc) fn read(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rightmost_entry_outside_of_the_trusted_proxies_is_the_client() {
        let trusted = Cidrs::parse(&["10.0.0.0/8", "2001:db8::/32"]).unwrap();
        let ask = |peer: &str, forwarded: &[&str]| {
            let fields: Vec<_> = forwarded
                .iter()
                .map(|value| Field { name: b"x-forwarded-for", value: value.as_bytes() })
                .chain([Field { name: b"forwarded", value: b"for=198.51.100.99" }])
                .collect();
            client(peer.parse().unwrap(), &fields, &trusted).to_string()
        };
        for (peer, forwarded, expected) in [
            ("192.0.2.1", &["198.51.100.1"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.2.2.2"], "198.51.100.1"),
            ("10.0.0.1", &["1.1.1.1", "198.51.100.1", "10.2.2.2,10.3.3.3"], "198.51.100.1"),
            ("10.0.0.1", &["10.4.4.4,10.2.2.2"], "10.4.4.4"),
            ("10.0.0.1", &["198.51.100.1, unknown, 10.2.2.2"], "10.2.2.2"),
            ("10.0.0.1", &["198.51.100.1,"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("2001:db8::1", &["[2001:db9::2]:443"], "2001:db9::2"),
            ("2001:db8::1", &["[2001:db9::2]"], "2001:db9::2"),
        ] {
            assert_eq!(ask(peer, forwarded), expected, "{peer} {forwarded:?}");
        }
        let untrusting = client("10.0.0.1".parse().unwrap(), &[], &Cidrs::default());
        assert_eq!(untrusting.to_string(), "10.0.0.1");
    }

    #[test]
    fn a_long_way_is_cut_off() {
        let trusted = Cidrs::parse(&["10.0.0.0/8"]).unwrap();
        let value = format!("198.51.100.1{}", ",10.0.0.2".repeat(MOST_HOPS));
        let fields = [Field { name: b"x-forwarded-for", value: value.as_bytes() }];
        assert_eq!(client("10.0.0.1".parse().unwrap(), &fields, &trusted).to_string(), "10.0.0.2");
    }
}
