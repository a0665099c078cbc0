//! Reads a CheckRequest where it lies: no text is copied, and what is not needed is passed over, the
//! body of the request included. What it takes is what `proto/envoy` describes; a test holds it to the
//! generated decoder. What a request means is decided elsewhere.

use std::fmt;
use std::net::IpAddr;

use super::wire::Fields;
use crate::rpc::ascii;
use crate::rpc::proxy::Field;

/// Most header fields of one request. Envoy takes 100 unless configured otherwise.
pub const MOST_FIELDS: usize = 1024;
/// Most context extensions that begin with `keyclasp.`. There are fewer names than that.
pub const MOST_EXTENSIONS: usize = 64;
/// How many header fields usual requests have.
const USUAL_FIELDS: usize = 32;
/// What the names of our context extensions begin with. Others are for others.
const OURS: &str = "keyclasp.";

/// What is read of a CheckRequest.
#[derive(Default)]
pub struct CheckRequest<'a> {
    /// Of both `headers` and `header_map`, as they came.
    pub(super) fields: Vec<Field<'a>>,
    pub(super) target: &'a [u8],
    pub(super) host: &'a [u8],
    pub(super) address: Option<IpAddr>,
    pub(super) principal: Option<&'a str>,
    /// Without `keyclasp.`, each name once.
    pub(super) extensions: Vec<(&'a str, &'a str)>,
    /// Whether there is a request over HTTP at all.
    has_request: bool,
}

/// Why a CheckRequest cannot be read. Says nothing of what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Not protobuf, or not of this message.
    #[error("it is not a CheckRequest")]
    Malformed,
    /// A text is not one.
    #[error("a text in it is not UTF-8")]
    NotUtf8,
    /// A proxy asks about a connection.
    #[error("it has no attributes.request.http; only requests over HTTP can be decided about")]
    NoRequest,
    /// A header field that no proxy passes on.
    #[error("a header field has a name or value that HTTP does not allow, or a name that is not in lower case")]
    Header,
    /// A path, host or principal with a line break in it.
    #[error("a line break or NUL stands where HTTP allows none")]
    Control,
    /// More than anybody sends.
    #[error("it has more than {MOST_FIELDS} header fields or {MOST_EXTENSIONS} context extensions")]
    TooMany,
}

impl<'a> CheckRequest<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// When it is anything else, or about anything but a request over HTTP.
    pub fn scan(message: &'a [u8]) -> Result<Self, Unreadable> {
        let mut request = Self { fields: Vec::with_capacity(USUAL_FIELDS), ..Self::default() };
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            if number == 1 {
                request.read_attributes(value.fields()?)?;
            }
        }
        if !request.has_request {
            return Err(Unreadable::NoRequest);
        }
        let principal = request.principal.unwrap_or_default();
        if [request.target, request.host, principal.as_bytes()].into_iter().any(breaks) {
            return Err(Unreadable::Control);
        }
        // The default of a text is no text.
        request.principal = request.principal.filter(|principal| !principal.is_empty());
        Ok(request)
    }

    /// The header fields: names in lower case, and values.
    pub fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + '_ {
        self.fields.iter().map(|field| (field.name, field.value))
    }

    /// Path and query.
    #[must_use]
    pub const fn target(&self) -> &'a [u8] {
        self.target
    }

    /// The authority.
    #[must_use]
    pub const fn host(&self) -> &'a [u8] {
        self.host
    }

    /// The address of the proxy's peer, where that has one.
    #[must_use]
    pub const fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Who the proxy's peer proved to be.
    #[must_use]
    pub const fn principal(&self) -> Option<&'a str> {
        self.principal
    }

    /// What the route says to us: names without `keyclasp.`, and values.
    #[must_use]
    pub fn extensions(&self) -> &[(&'a str, &'a str)] {
        &self.extensions
    }

    /// Whether the request is a call of gRPC, by Envoy's own rule (`Grpc::Common::hasGrpcContentType`), which
    /// decides how Envoy answers it: gRPC-Web, for one, is not.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        let content_type = self.fields.iter().find(|field| field.name == b"content-type");
        let rest = content_type.and_then(|field| field.value.strip_prefix(b"application/grpc"));
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
    }

    /// `AttributeContext`. Several of one message are parts of the whole, also further down.
    fn read_attributes(&mut self, mut fields: Fields<'a>) -> Result<(), Unreadable> {
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => self.read_peer(value.fields()?)?,
                4 => self.read_request(value.fields()?)?,
                10 => self.read_extension(value.fields()?)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// `AttributeContext.Peer`.
    fn read_peer(&mut self, mut fields: Fields<'a>) -> Result<(), Unreadable> {
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => self.read_address(value.fields()?)?,
                4 => self.principal = Some(value.text()?),
                _ => {}
            }
        }
        Ok(())
    }

    /// `Address`: one of several kinds, of which the last one counts.
    fn read_address(&mut self, mut fields: Fields<'a>) -> Result<(), Unreadable> {
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => self.read_socket_address(value.fields()?)?,
                2 | 3 => {
                    value.fields()?.pass()?;
                    self.address = None;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// `SocketAddress`. What is not an IP address is none: keys that are bound to addresses are then refused.
    fn read_socket_address(&mut self, mut fields: Fields<'a>) -> Result<(), Unreadable> {
        while let Some((number, value)) = fields.next()? {
            if number == 2 {
                self.address = value.text()?.parse().ok().map(|address: IpAddr| address.to_canonical());
            }
        }
        Ok(())
    }

    /// `AttributeContext.Request`.
    fn read_request(&mut self, mut fields: Fields<'a>) -> Result<(), Unreadable> {
        while let Some((number, value)) = fields.next()? {
            if number == 2 {
                self.has_request = true;
                self.read_http_request(value.fields()?)?;
            }
        }
        Ok(())
    }

    /// `AttributeContext.HttpRequest`.
    fn read_http_request(&mut self, mut fields: Fields<'a>) -> Result<(), Unreadable> {
        while let Some((number, value)) = fields.next()? {
            match number {
                3 => self.read_header(value.fields()?)?,
                4 => self.target = value.text_bytes()?,
                5 => self.host = value.text_bytes()?,
                13 => self.read_header_map(value.fields()?)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// An entry of `headers`.
    fn read_header(&mut self, mut fields: Fields<'a>) -> Result<(), Unreadable> {
        let (mut name, mut text) = (&b""[..], &b""[..]);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => name = value.text_bytes()?,
                2 => text = value.text_bytes()?,
                _ => {}
            }
        }
        self.push_field(name, text)
    }

    /// `HeaderMap`.
    fn read_header_map(&mut self, mut fields: Fields<'a>) -> Result<(), Unreadable> {
        while let Some((number, value)) = fields.next()? {
            if number == 1 {
                self.read_header_value(value.fields()?)?;
            }
        }
        Ok(())
    }

    /// `HeaderValue`. One that has both values has two: which one the upstream sees is not known.
    fn read_header_value(&mut self, mut fields: Fields<'a>) -> Result<(), Unreadable> {
        let (mut name, mut text, mut raw) = (&b""[..], &b""[..], &b""[..]);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => name = value.text_bytes()?,
                2 => text = value.text_bytes()?,
                3 => raw = value.bytes()?,
                _ => {}
            }
        }
        if !text.is_empty() && !raw.is_empty() {
            self.push_field(name, text)?;
        }
        self.push_field(name, if raw.is_empty() { text } else { raw })
    }

    fn push_field(&mut self, name: &'a [u8], value: &'a [u8]) -> Result<(), Unreadable> {
        if !ascii::is_lower_case(name) || breaks(value) {
            return Err(Unreadable::Header);
        }
        if self.fields.len() == MOST_FIELDS {
            return Err(Unreadable::TooMany);
        }
        self.fields.push(Field { name, value });
        Ok(())
    }

    /// An entry of `context_extensions`. Of several with one name the last one counts.
    fn read_extension(&mut self, fields: Fields<'a>) -> Result<(), Unreadable> {
        let (name, value) = entry(fields)?;
        let Some(name) = name.strip_prefix(OURS) else { return Ok(()) };
        if let Some(there) = self.extensions.iter_mut().find(|(there, _)| *there == name) {
            there.1 = value;
        } else if self.extensions.len() == MOST_EXTENSIONS {
            return Err(Unreadable::TooMany);
        } else {
            self.extensions.push((name, value));
        }
        Ok(())
    }
}

impl fmt::Debug for CheckRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A key may be in the fields and in the target.
        f.debug_struct("CheckRequest").field("extensions", &self.extensions).finish_non_exhaustive()
    }
}

/// An entry of a map of texts.
fn entry<'a>(mut fields: Fields<'a>) -> Result<(&'a str, &'a str), Unreadable> {
    let (mut name, mut text) = ("", "");
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => name = value.text()?,
            2 => text = value.text()?,
            _ => {}
        }
    }
    Ok((name, text))
}

/// Whether there is anything in `value` that ends a line or a text in some program (RFC 9110, section 5.5).
fn breaks(value: &[u8]) -> bool {
    !ascii::is_printable(value) && value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::rpc::proto::envoy::config::core::v3 as core;
    use crate::rpc::proto::envoy::service::auth::v3 as auth;
    use crate::rpc::proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};

    /// What the generated decoder makes of a message, by the rules above. None: it is refused.
    fn decoded(message: &[u8]) -> Option<Read> {
        let attributes = auth::CheckRequest::decode(message).ok()?.attributes?;
        let http = attributes.request?.http?;
        let mut fields: Vec<_> =
            http.headers.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
        for field in http.header_map.unwrap_or_default().headers {
            let values = match (field.value.is_empty(), field.raw_value.is_empty()) {
                (false, false) => vec![field.value.into_bytes(), field.raw_value],
                (_, true) => vec![field.value.into_bytes()],
                (true, false) => vec![field.raw_value],
            };
            fields.extend(values.into_iter().map(|value| (field.key.clone().into_bytes(), value)));
        }
        let (mut address, mut principal) = (None, String::new());
        if let Some(source) = attributes.source {
            principal = source.principal;
            if let Some(core::address::Address::SocketAddress(socket)) = source.address.and_then(|it| it.address) {
                address = socket.address.parse().ok().map(|address: IpAddr| address.to_canonical());
            }
        }
        let extensions = attributes.context_extensions.into_iter();
        let mut extensions: Vec<_> =
            extensions.filter_map(|(name, value)| Some((name.strip_prefix(OURS)?.to_owned(), value))).collect();
        extensions.sort();
        fields.sort();
        let broken = |bytes: &[u8]| bytes.iter().any(|byte| b"\r\n\0".contains(byte));
        let bad_name = |name: &[u8]| name.iter().any(|byte| !(b'!'..=b'~').contains(byte) || byte.is_ascii_uppercase());
        let refused = fields.iter().any(|(name, value)| bad_name(name) || broken(value))
            || [http.path.as_bytes(), http.host.as_bytes(), principal.as_bytes()].into_iter().any(broken)
            || fields.len() > MOST_FIELDS
            || extensions.len() > MOST_EXTENSIONS;
        let (target, host) = (http.path.into_bytes(), http.host.into_bytes());
        (!refused).then_some(Read { fields, target, host, address, principal, extensions })
    }

    /// What the scanner makes of it. A map holds one entry for each name; the scanner keeps all, and the last one
    /// of them is the map's.
    fn scanned(message: &[u8]) -> Result<Read, Unreadable> {
        let request = CheckRequest::scan(message)?;
        let mut fields: Vec<_> = request.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        let mut extensions: Vec<_> =
            request.extensions().iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        extensions.sort();
        fields.sort();
        Ok(Read {
            fields,
            target: request.target().to_vec(),
            host: request.host().to_vec(),
            address: request.address(),
            principal: request.principal().unwrap_or_default().to_owned(),
            extensions,
        })
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Read {
        fields: Vec<(Vec<u8>, Vec<u8>)>,
        target: Vec<u8>,
        host: Vec<u8>,
        address: Option<IpAddr>,
        principal: String,
        extensions: Vec<(String, String)>,
    }

    /// Texts that are names and values now and then, and sometimes what is refused.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            8 => "[a-z:-]{0,12}",
            4 => "keyclasp\\.[a-z_]{0,6}",
            2 => "(10\\.0\\.0\\.[0-9]|::1|::ffff:10\\.1\\.1\\.1|2001:db8::[0-9a-f]|localhost)",
            2 => "application/grpc[+;a-z]{0,5}",
            1 => "[A-Z]{1,3}|\\PC{0,4}|[a\r\n\\x00]{1,3}",
        ]
    }

    fn header_map() -> impl Strategy<Value = core::HeaderMap> {
        let field = (text(), prop_oneof![Just(String::new()), text()], proptest::collection::vec(any::<u8>(), 0..5));
        proptest::collection::vec(field, 0..4).prop_map(|fields| core::HeaderMap {
            headers: fields
                .into_iter()
                .map(|(key, value, raw_value)| core::HeaderValue { key, value, raw_value })
                .collect(),
        })
    }

    fn address() -> impl Strategy<Value = core::Address> {
        use core::address::Address;
        let one = prop_oneof![
            6 => text().prop_map(|address| Address::SocketAddress(core::SocketAddress { address })),
            1 => Just(Address::Pipe(core::Pipe {})),
            1 => Just(Address::EnvoyInternalAddress(core::EnvoyInternalAddress {})),
        ];
        proptest::option::of(one).prop_map(|address| core::Address { address })
    }

    fn message() -> impl Strategy<Value = auth::CheckRequest> {
        let map = || proptest::collection::btree_map(text(), text(), 0..6);
        let source = proptest::option::of((proptest::option::of(address()), text()));
        let http = proptest::option::weighted(0.9, (map(), text(), text(), proptest::option::of(header_map())));
        let whole = (source, proptest::option::weighted(0.9, http), map());
        proptest::option::weighted(0.95, whole).prop_map(|attributes| auth::CheckRequest {
            attributes: attributes.map(|(source, request, context_extensions)| auth::AttributeContext {
                source: source.map(|(address, principal)| Peer { address, principal }),
                request: request.map(|http| Request {
                    http: http.map(|(headers, path, host, header_map)| HttpRequest { headers, path, host, header_map }),
                }),
                context_extensions,
            }),
        })
    }

    /// A field that nobody knows.
    fn unknown() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(vec![0x98, 0x06, 0x80, 0x80, 0x01]),
            Just(vec![0x99, 0x06, 1, 2, 3, 4, 5, 6, 7, 8]),
            Just(vec![0x9a, 0x06, 2, 0xff, 0xfe]),
            Just(vec![0x9d, 0x06, 1, 2, 3, 4]),
            Just(Vec::new()),
        ]
    }

    /// Both refuse it, or both read the same.
    fn agree(message: &[u8]) -> Result<(), TestCaseError> {
        match (scanned(message), decoded(message)) {
            (Ok(scanned), Some(decoded)) => {
                // The map has one of each name.
                let of_a_map = scanned.fields.len() != decoded.fields.len();
                if of_a_map {
                    prop_assert!(decoded.fields.iter().all(|field| scanned.fields.contains(field)));
                    prop_assert_eq!(Read { fields: Vec::new(), ..scanned }, Read { fields: Vec::new(), ..decoded });
                } else {
                    prop_assert_eq!(scanned, decoded);
                }
            }
            (Err(_), None) => {}
            // An earlier entry of a map may be what is refused, and groups are.
            (Err(Unreadable::Header | Unreadable::TooMany | Unreadable::Malformed), Some(_)) => {}
            (Err(error), Some(_)) => prop_assert!(false, "{error}"),
            (Ok(_), None) => prop_assert!(false, "read, and not decoded"),
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn it_reads_what_the_generated_decoder_reads(message in message(), unknown in unknown()) {
            let bytes = [unknown, message.encode_to_vec()].concat();
            prop_assert_eq!(scanned(&bytes).ok(), decoded(&bytes));
        }

        /// Messages one after the other are one (protobuf: "Last One Wins", "embedded message fields").
        #[test]
        fn messages_merge(messages in proptest::collection::vec(message(), 2..4)) {
            agree(&messages.iter().flat_map(prost::Message::encode_to_vec).collect::<Vec<_>>())?;
        }

        /// One byte less, or another one.
        #[test]
        fn what_is_broken_is_broken_for_both(
            message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
        ) {
            let mut bytes = message.encode_to_vec();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                if cut { bytes.truncate(at) } else { bytes[at] = byte }
            }
            agree(&bytes)?;
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            agree(&bytes)?;
        }
    }

    fn http(request: HttpRequest) -> auth::CheckRequest {
        let request = Some(Request { http: Some(request) });
        auth::CheckRequest { attributes: Some(auth::AttributeContext { request, ..Default::default() }) }
    }

    fn with_header(name: &str, value: &str) -> Vec<u8> {
        let headers = [(name.to_owned(), value.to_owned())].into();
        http(HttpRequest { headers, ..Default::default() }).encode_to_vec()
    }

    fn refused(message: &[u8]) -> Unreadable {
        scanned(message).unwrap_err()
    }

    #[test]
    fn what_asks_about_no_request_is_refused() {
        assert_eq!(refused(&[]), Unreadable::NoRequest);
        let request = auth::CheckRequest { attributes: Some(auth::AttributeContext::default()) };
        assert_eq!(refused(&request.encode_to_vec()), Unreadable::NoRequest);
        assert!(scanned(&http(HttpRequest::default()).encode_to_vec()).is_ok());
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let good = with_header("a", "b");
        assert!(scanned(&good).is_ok());
        for (name, bad) in [
            ("a number where a message belongs", vec![0x08, 1]),
            ("a fixed number where a message belongs", vec![0x0d, 1, 2, 3, 4]),
            ("field 0", vec![0x02, 0]),
            ("a group", vec![0x13, 0x14]),
            ("the end of a group", vec![0x14]),
            ("wire type 6", vec![0x16]),
            ("a length beyond the end", vec![0x0a, 2, 0]),
            ("a length of 64 bits", vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            ("a number that does not end", vec![0x80]),
            ("a number of eleven bytes", [&[0x18][..], &[0xff; 10], &[1]].concat()),
            ("a number of 70 bits", [&[0x18][..], &[0xff; 9], &[2]].concat()),
            ("a key of 33 bits", vec![0x80, 0x80, 0x80, 0x80, 0x10, 0]),
        ] {
            assert_eq!(refused(&[good.clone(), bad.clone()].concat()), Unreadable::Malformed, "{name}");
            // A message was read before; nothing of it is used.
            assert!(decoded(&[good.clone(), bad].concat()).is_none() || name.contains("group"), "{name}");
        }
    }

    #[test]
    fn what_http_does_not_allow_is_refused() {
        for (name, value) in [
            ("a", "b\r\nx-keyclasp-owner: eve"),
            ("a", "b\n"),
            ("a", "\0"),
            ("A", "b"),
            ("a b", "c"),
            ("a\r", "c"),
            ("ä", "c"),
        ] {
            assert_eq!(refused(&with_header(name, value)), Unreadable::Header, "{name:?} {value:?}");
        }
        let target = HttpRequest { path: "/\n".to_owned(), ..Default::default() };
        assert_eq!(refused(&http(target).encode_to_vec()), Unreadable::Control);
        let host = HttpRequest { host: "a\rb".to_owned(), ..Default::default() };
        assert_eq!(refused(&http(host).encode_to_vec()), Unreadable::Control);
        let mut principal = http(HttpRequest::default());
        principal.attributes.as_mut().unwrap().source = Some(Peer { principal: "a\0".to_owned(), address: None });
        assert_eq!(refused(&principal.encode_to_vec()), Unreadable::Control);
        let mut not_text = with_header("name", "value");
        let at = not_text.len() - 1;
        not_text[at] = 0xff;
        assert_eq!(refused(&not_text), Unreadable::NotUtf8);
    }

    #[test]
    fn what_is_too_many_is_refused() {
        let headers = |count: usize| {
            let headers = (0..count).map(|number| (format!("h{number}"), String::new())).collect();
            http(HttpRequest { headers, ..Default::default() }).encode_to_vec()
        };
        assert_eq!(scanned(&headers(MOST_FIELDS)).unwrap().fields.len(), MOST_FIELDS);
        assert_eq!(refused(&headers(MOST_FIELDS + 1)), Unreadable::TooMany);
        let extensions = |count: usize| {
            let mut request = http(HttpRequest::default());
            let named =
                |number| [(format!("keyclasp.x{number}"), String::new()), (format!("x{number}"), String::new())];
            request.attributes.as_mut().unwrap().context_extensions = (0..count).flat_map(named).collect();
            request.encode_to_vec()
        };
        assert_eq!(scanned(&extensions(MOST_EXTENSIONS)).unwrap().extensions.len(), MOST_EXTENSIONS);
        assert_eq!(refused(&extensions(MOST_EXTENSIONS + 1)), Unreadable::TooMany);
    }

    #[test]
    fn calls_of_grpc_are_told_as_envoy_tells_them() {
        for (value, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpc;charset=utf-8", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(CheckRequest::scan(&with_header("content-type", value)).unwrap().is_grpc(), grpc, "{value}");
        }
        assert!(!CheckRequest::scan(&with_header("x-content-type", "application/grpc")).unwrap().is_grpc());
    }

    #[test]
    fn nothing_of_a_request_is_printed() {
        let message = with_header("authorization", "Bearer kc_secret");
        assert!(!format!("{:?}", CheckRequest::scan(&message).unwrap()).contains("secret"));
        assert!(!format!("{:?}", auth::CheckRequest::decode(&message[..]).unwrap()).contains("secret"));
    }
}
