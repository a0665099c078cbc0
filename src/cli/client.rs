//! The client of a running service: where it is, with what token, and how long a call may take.

use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};
use zeroize::Zeroizing;

use super::Global;
use super::failure::Failure;
use super::input;
use crate::config::{ADMIN_TOKEN_FILE, Sources};
use crate::rpc::proto::v1::admin_service_client::AdminServiceClient;
use crate::rpc::proto::v1::audit_service_client::AuditServiceClient;
use crate::rpc::proto::v1::key_service_client::KeyServiceClient;

/// Longest that making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Beyond the deadline that the service knows, for its answer to arrive.
const SLACK: Duration = Duration::from_secs(1);
/// Largest answer: 500 keys with everything that they may hold.
const LARGEST_ANSWER: usize = 64 << 20;

/// A connection to a service.
pub(super) struct Client {
    channel: Channel,
    token: Option<Token>,
    timeout: Duration,
}

/// What calls are made with.
struct Token {
    header: MetadataValue<Ascii>,
    from: String,
}

impl Client {
    /// Connects.
    pub(super) async fn connect(global: &Global, sources: &Sources) -> Result<Self, Failure> {
        let (endpoint, local) = endpoint(&global.endpoint)?;
        let token = token(global, sources, local)?;
        let connected = endpoint.connect_timeout(global.timeout.min(CONNECT)).connect().await;
        let channel = connected.map_err(|_| {
            Failure::unavailable(format!(
                "nothing answers at {0}: is keyclasp running there? Start it with `keyclasp serve`, or name another \
                 place with --endpoint or KEYCLASP_ENDPOINT",
                global.endpoint
            ))
        })?;
        Ok(Self { channel, token, timeout: global.timeout })
    }

    pub(super) fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    pub(super) fn audit(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    pub(super) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    /// A request with token and deadline.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.header.clone());
        }
        request
    }

    /// Waits for an answer, but not longer than the deadline.
    pub(super) async fn answer<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        match tokio::time::timeout(self.timeout + SLACK, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            // What the channel says when it cut the call off by itself.
            Ok(Err(status)) if status.code() == Code::Cancelled => Err(self.too_late()),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(self.too_late()),
        }
    }

    /// The same, with an error to show.
    pub(super) async fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
        self.answer(call).await.map_err(|status| self.failure(&status))
    }

    /// An error to show, with what can be done about it.
    pub(super) fn failure(&self, status: &Status) -> Failure {
        let failure = Failure::from_status(status);
        match (status.code(), &self.token) {
            (Code::Unauthenticated, None) => failure.and(
                "No token was sent: set KEYCLASP_TOKEN_FILE, or give --token-file. `keyclasp init` and the first \
                 `keyclasp serve` write an admin.token.",
            ),
            (Code::Unauthenticated, Some(token)) => {
                failure.and(&format!("The token came from {}; is it one of this service?", token.from))
            }
            _ => failure,
        }
    }

    fn too_late(&self) -> Status {
        let after = humantime::format_duration(self.timeout);
        Status::deadline_exceeded(format!("no answer within {after}; whether a change was made is not known"))
    }
}

/// Where the service is, and whether that is this machine.
fn endpoint(url: &str) -> Result<(Endpoint, bool), Failure> {
    let form = || Failure::usage("the endpoint is no address of a service: write it as http://HOST:PORT");
    let uri: Uri = url.parse().map_err(|_| form())?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(Failure::usage(
                "TLS is not supported yet: use http:// on this machine or within a network that you trust",
            ));
        }
        _ => return Err(form()),
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(form());
    }
    let local = is_local(uri.host().ok_or_else(form)?);
    let endpoint = Endpoint::from_shared(url.trim_end_matches('/').to_owned()).map_err(|_| form())?;
    Ok((endpoint, local))
}

fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The token: as it is named, or the admin token of a service on this machine, which is never sent
/// to another one.
fn token(global: &Global, sources: &Sources, local: bool) -> Result<Option<Token>, Failure> {
    if let Some(path) = &global.token_file {
        return Ok(Some(Token::new(&input::from_file(path)?, path.display().to_string())?));
    }
    if let Some(token) = sources.var("KEYCLASP_TOKEN") {
        return Ok(Some(Token::new(token, "KEYCLASP_TOKEN".to_owned())?));
    }
    let directories = [
        sources.file.as_deref().and_then(|file| Some(file.parent()?.to_owned())),
        sources.var("KEYCLASP_DATA_DIR").map(PathBuf::from),
        sources.user_dir(),
    ];
    let files = directories.into_iter().flatten().map(|directory| directory.join(ADMIN_TOKEN_FILE));
    match files.into_iter().find(|path| local && path.is_file()) {
        Some(path) => Ok(Some(Token::new(&input::from_file(&path)?, path.display().to_string())?)),
        None => Ok(None),
    }
}

impl Token {
    fn new(token: &str, from: String) -> Result<Self, Failure> {
        let header = Zeroizing::new(format!("Bearer {token}"));
        let header = header.parse::<MetadataValue<Ascii>>().ok().filter(|_| !token.is_empty());
        let mut header = header.ok_or_else(|| Failure::refused(format!("{from} holds no token")))?;
        header.set_sensitive(true);
        Ok(Self { header, from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (url, local) in [
            ("http://127.0.0.1:7413", true),
            ("http://[::1]:7413/", true),
            ("http://localhost:1", true),
            ("http://keyclasp:7413", false),
            ("http://10.0.0.1:7413", false),
            ("http://127.0.0.1.example.org:7413", false),
        ] {
            assert_eq!(endpoint(url).map(|(_, local)| local).ok(), Some(local), "{url}");
        }
        for url in ["", "127.0.0.1:7413", "https://h:1", "http://", "http://h/path", "http://h/?q", "ftp://h"] {
            assert!(endpoint(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_token_that_cannot_be_sent_is_not_shown() {
        let failure = Token::new("sec\nret", "FILE".to_owned()).err().unwrap();
        assert_eq!(failure.text(), "FILE holds no token");
        assert!(Token::new("", "FILE".to_owned()).is_err());
        let token = Token::new("secret", "FILE".to_owned()).ok().unwrap();
        assert!(!format!("{:?}", token.header).contains("secret"));
    }
}
