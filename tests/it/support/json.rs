//! A JSON call over a raw HTTP/1.1 connection.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Status and answer of `POST /keyclasp.v1.<method>`, such as `KeyService/GetKey`. `token`: empty
/// for none.
pub(crate) fn call(address: SocketAddr, token: &str, method: &str, request: &Value) -> (u16, Value) {
    exchange(connect(address), &text(token, method, request, ""))
}

/// The same for a caller that has so much time.
pub(crate) fn call_within(
    address: SocketAddr,
    token: &str,
    method: &str,
    request: &Value,
    timeout: Duration,
) -> (u16, Value) {
    let header = format!("Connect-Timeout-Ms: {}\r\n", timeout.as_millis());
    exchange(connect(address), &text(token, method, request, &header))
}

/// A call that lacks its last byte.
#[derive(Debug)]
pub(crate) struct Begun {
    stream: TcpStream,
    last: String,
}

impl Begun {
    /// Begins it.
    pub(crate) fn new(address: SocketAddr, token: &str, method: &str, request: &Value) -> Self {
        let mut text = text(token, method, request, "");
        let last = text.split_off(text.len() - 1);
        let mut stream = connect(address);
        stream.write_all(text.as_bytes()).unwrap();
        Self { stream, last }
    }

    /// Sends what it lacks, and waits for the answer.
    pub(crate) fn end(self) -> (u16, Value) {
        exchange(self.stream, &self.last)
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// The request with more headers, each with its line end.
fn text(token: &str, method: &str, request: &Value, headers: &str) -> String {
    let body = request.to_string();
    let authorization = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    format!(
        "POST /keyclasp.v1.{method} HTTP/1.1\r\nHost: keyclasp\r\nConnection: close\r\n{authorization}{headers}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends the rest of a request at once, and reads the answer.
fn exchange(mut stream: TcpStream, rest: &str) -> (u16, Value) {
    stream.write_all(rest.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    read(&answer)
}

fn read(answer: &str) -> (u16, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {answer}"));
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    let body =
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { dechunk(body) } else { body.to_owned() };
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {answer}")))
}

fn dechunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    body
}
