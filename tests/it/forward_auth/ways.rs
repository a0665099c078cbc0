//! A question that is answered where it lies in its connection's buffer is answered as one that hyper reads.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use keyclasp::rpc::proxy::{Settings, Source, Sources};

use super::parts::{Keyclasp, field};

/// A connection that is kept.
struct Kept {
    stream: TcpStream,
    read: Vec<u8>,
    was_short: bool,
}

impl Kept {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { stream, read: Vec::new(), was_short: false }
    }

    /// One on which hyper answers everything, since this came first.
    fn long(address: SocketAddr) -> Self {
        let mut kept = Self::open(address);
        let answer = kept.ask("POST /forward-auth?realm=acme HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert!(answer[0].starts_with("HTTP/1.1 400 "), "{answer:?}");
        kept
    }

    /// The lines of an answer but for the time, sorted, the body last. Unsorted it tells which way it went.
    fn ask(&mut self, request: &str) -> Vec<String> {
        self.stream.write_all(request.as_bytes()).unwrap();
        let (head, body) = loop {
            if let Some(whole) = self.whole() {
                break whole;
            }
            let mut piece = [0; 16_384];
            let read = self.stream.read(&mut piece).unwrap();
            assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&self.read));
            self.read.extend_from_slice(&piece[..read]);
        };
        self.was_short = head.lines().nth(1) == Some("cache-control: no-store");
        let mut lines: Vec<_> = head.lines().filter(|line| !line.starts_with("date: ")).map(str::to_owned).collect();
        assert_eq!(lines.len() + 1, head.lines().count(), "{head}");
        lines[1..].sort();
        lines.push(body);
        lines
    }

    /// Takes an answer out of what was read.
    fn whole(&mut self) -> Option<(String, String)> {
        let text = String::from_utf8(self.read.clone()).unwrap();
        let (head, rest) = text.split_once("\r\n\r\n")?;
        let length: usize = field(head, "content-length").unwrap().parse().unwrap();
        let body = rest.get(..length)?.to_owned();
        self.read = rest.as_bytes()[length..].to_vec();
        Some((head.to_owned(), body))
    }
}

#[test]
fn both_ways_lead_to_the_same_answer() {
    let names = ["apikey", "bearer", "basic", "x-api-key", "api-key", "query:key", "cookie:key"];
    let sources = Sources::new(names.map(|name| Source::parse(name).unwrap()));
    let keyclasp = Keyclasp::start(&["127.0.0.1/32"], Settings { sources, ..Settings::default() });
    let (_, key) = keyclasp.key("acme", &["orders:read", "b"], &[]);
    let (_, bare) = keyclasp.key("acme", &[], &[]);
    let (_, other) = keyclasp.key("other", &["orders:read"], &[]);
    let (_, bound) = keyclasp.key("acme", &["orders:read"], &["192.0.2.0/24"]);
    let forged = format!("{}{}", &key[..80], &other[80..]);
    let routes = [
        "",
        "realm=acme",
        "realm=acme&scopes=orders%3Aread",
        "realm=acme&scopes=orders:read+c",
        "realm=acme&optional=true",
        "realm=acme&dry_run=true",
        "realm=acme&realm=acme",
        "scope=a",
        "realm=acme&token=inject",
    ];
    let shown: Vec<String> = [
        String::new(),
        format!("X-API-Key: {key}\r\n"),
        format!("x-api-key:{key}\r\nAuthorization: Bearer eyJ.a.b\r\nCookie: a=b\r\n"),
        format!("AUTHORIZATION: ApiKey {bare}\r\n"),
        format!("Authorization: Bearer {other}\r\n"),
        format!("Api-Key: {bound}\r\n"),
        format!("Api-Key: {forged}\r\n"),
        format!("Cookie: a=b; key={key}; c=\u{e9}\r\n"),
        format!("X-API-Key: {key}\r\nAPI-Key: {bare}\r\n"),
        format!("X-API-Key: {key}\r\nX_Keyclasp_Owner: eve\r\n"),
        format!("X-API-Key: {key}\r\nX-Keyclasp-Owner: eve\r\n"),
        "X-API-Key: no key\r\n".to_owned(),
        format!("X-API-Key: {key}\r\nX-Original-URI: /b\r\nX-Forwarded-Uri: /b\r\n"),
    ]
    .into();
    let mut long = Kept::long(keyclasp.address);
    let mut statuses = std::collections::BTreeSet::new();
    for style in ["nginx", "forwarded", "haproxy", "traefik"] {
        for route in routes {
            // What cannot be understood goes the long way, and all that follows on its connection.
            let mut short = Kept::open(keyclasp.address);
            for shown in &shown {
                for target in ["/orders?a=b".to_owned(), format!("/orders?key={key}&a=b")] {
                    let request = format!(
                        "GET /forward-auth?style={style}&{route} HTTP/1.1\r\nHost: api.example.com\r\n\
                         X-Original-Method: GET\r\nX-Original-URI: {target}\r\nX-Real-IP: 192.0.2.7\r\n\
                         X-Forwarded-Method: GET\r\nX-Forwarded-Uri: {target}\r\nX-Forwarded-For: 192.0.2.7\r\n\
                         {shown}\r\n"
                    );
                    let (one, other) = (short.ask(&request), long.ask(&request));
                    assert_eq!(one, other, "{request}");
                    let faulty = ["realm=acme&realm=acme", "scope=a"].contains(&route);
                    assert_eq!((short.was_short, long.was_short), (!faulty, false), "{request}");
                    statuses.insert(one[0].clone());
                }
            }
        }
    }
    assert!(statuses.len() >= 4, "{statuses:?}");
    let counted = |code: &str| {
        let line = format!(r#"keyclasp_rpc_calls_total{{method="forward-auth",code="{code}"}} "#);
        let metrics = keyclasp.metrics();
        let count = metrics.lines().find_map(|known| known.strip_prefix(&line)).unwrap_or("0").parse::<u64>();
        count.unwrap()
    };
    // The question that came first is one more.
    let all = 2 * 4 * routes.len() * shown.len() * 2 + 1;
    let codes = ["OK", "INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED", "INTERNAL", "UNAVAILABLE"];
    assert_eq!(codes.map(counted).iter().sum::<u64>(), all as u64, "{}", keyclasp.metrics());
}
