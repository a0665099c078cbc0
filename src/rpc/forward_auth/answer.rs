//! A decision as a proxy takes it: 200 with what the upstream shall know, or the refusal.
//!
//! An answer cannot take a field away from the request that a proxy holds. So the documented configurations
//! take away every field that could hold a key, and put back those that [`KEEP`] names: who forgets the second
//! loses a field, who forgets both passes a key on, and nobody passes it on by a field that is missing here.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use tonic::body::Body;

use super::style::Style;
use crate::rpc::gateway::endpoint::count_as;
use crate::rpc::gateway::lean::{LeanAnswer, Lines};
use crate::rpc::proxy::{Conclusion, Field, Holder, IDENTITY, Identity, PROBLEM, Refusal, StripCookie, Verdict};

/// Which of the fields that can hold a key hold none, and may go on to the upstream.
static KEEP: HeaderName = HeaderName::from_static("x-keyclasp-keep");
/// Other cookies, where the key was one.
static COOKIES: HeaderName = HeaderName::from_static("x-keyclasp-cookie");
/// Path and query without the key, where it stood in the query.
static TARGET: HeaderName = HeaderName::from_static("x-keyclasp-uri");
/// In a dry run: why the request would have been refused.
static DRY_RUN: HeaderName = HeaderName::from_static("x-keyclasp-dry-run");
/// For a proxy that knows two refusals: which status it is really,
static STATUS: HeaderName = HeaderName::from_static("x-keyclasp-status");
/// why,
static REASON: HeaderName = HeaderName::from_static("x-keyclasp-reason");
/// and what the client shall be told, as the body of an answer is not passed on.
static TOLD: HeaderName = HeaderName::from_static("x-keyclasp-problem");
/// Longest value of that: nginx takes 4 KiB of header fields unless it is configured otherwise.
const LONGEST_TOLD: usize = 2048;

/// Fields that can hold a key and nothing else, in the order of [`Holder::ALL`]. The cookie comes behind them.
static HOLDERS: [HeaderName; Holder::ALL.len()] = {
    let [authorization, x_api_key, api_key] = Holder::ALL;
    [
        HeaderName::from_static(authorization.name()),
        HeaderName::from_static(x_api_key.name()),
        HeaderName::from_static(api_key.name()),
    ]
};

/// The fields of the identity.
static IDENTITY_FIELDS: [HeaderName; IDENTITY.len()] = {
    let [owner, kind, key_id, realm, scopes] = IDENTITY;
    [
        HeaderName::from_static(owner),
        HeaderName::from_static(kind),
        HeaderName::from_static(key_id),
        HeaderName::from_static(realm),
        HeaderName::from_static(scopes),
    ]
};
/// How their lines begin.
static IDENTITY_LINES: [&str; IDENTITY.len()] = [
    "x-keyclasp-owner: ",
    "x-keyclasp-owner-kind: ",
    "x-keyclasp-key-id: ",
    "x-keyclasp-realm: ",
    "x-keyclasp-scopes: ",
];
/// Fields of a usual answer, with those that the gateway adds.
const USUAL_FIELDS: usize = 12;

/// Where the header fields of an answer are put.
trait Fields {
    /// Adds one. A value that no field can have is left out.
    fn add(&mut self, name: &HeaderName, value: &[u8]);

    /// Adds those of an identity.
    fn identify(&mut self, identity: &Identity<'_>) {
        for (name, (_, value)) in IDENTITY_FIELDS.iter().zip(identity.fields()) {
            self.add(name, value.as_bytes());
        }
    }
}

impl Fields for HeaderMap {
    fn add(&mut self, name: &HeaderName, value: &[u8]) {
        if let Ok(mut value) = HeaderValue::from_bytes(value) {
            value.set_sensitive([&COOKIES, &COOKIE, &AUTHORIZATION].contains(&name));
            self.append(name, value);
        }
    }
}

impl Fields for Lines {
    fn add(&mut self, name: &HeaderName, value: &[u8]) {
        self.add(name, value);
    }

    fn identify(&mut self, identity: &Identity<'_>) {
        for (line, (_, value)) in IDENTITY_LINES.into_iter().zip(identity.fields()) {
            self.add_visible(line, value);
        }
    }
}

/// The answer to the proxy whose question had these header fields; None where they are not known any more.
pub(super) fn answer(verdict: &Verdict, style: Style, asked: Option<&[Field<'_>]>) -> Response<Body> {
    if let Conclusion::Refused(refusal) = &verdict.conclusion {
        let Refused { status, told, fields, body } = Refused::new(refusal, style);
        let mut response = Response::new(Body::new(Full::new(body)));
        *response.status_mut() = told;
        *response.headers_mut() = fields;
        count_as(&mut response, status);
        return response;
    }
    let mut response = Response::new(Body::empty());
    *response.headers_mut() = HeaderMap::with_capacity(USUAL_FIELDS);
    allowed(verdict, style, asked, response.headers_mut());
    response
}

/// The same in the form of a question that is answered where it lies.
pub(super) fn lean(verdict: &Verdict, style: Style, asked: &[Field<'_>]) -> LeanAnswer {
    if let Conclusion::Refused(refusal) = &verdict.conclusion {
        let Refused { status, told, fields, body } = Refused::new(refusal, style);
        return LeanAnswer { status: told, counts_as: status, fields: Lines::from(&fields), body };
    }
    let mut fields = Lines::new();
    allowed(verdict, style, Some(asked), &mut fields);
    LeanAnswer { status: StatusCode::OK, counts_as: StatusCode::OK, fields, body: Bytes::new() }
}

fn allowed(verdict: &Verdict, style: Style, asked: Option<&[Field<'_>]>, answer: &mut impl Fields) {
    match &verdict.conclusion {
        Conclusion::Key(held) => {
            answer.identify(&Identity::of(held.brief()));
        }
        // Caddy writes down the name of a field that it shall copy and does not find.
        Conclusion::Anonymous | Conclusion::Refused(_) if !style.takes_fields_from_the_answer() => {
            for name in &IDENTITY_FIELDS {
                answer.add(name, b"");
            }
        }
        Conclusion::Anonymous | Conclusion::Refused(_) => {}
    }
    if let Some(would) = &verdict.would {
        answer.add(&DRY_RUN, would.name().as_bytes());
    }
    match asked {
        Some(asked) => keep(verdict, style, asked, answer),
        // Nobody looked for a key: a dry run, which takes nothing away, but behind Traefik, which takes from here what
        // is not known any more.
        None => answer.add(&KEEP, &joined(HOLDERS.iter().chain([&COOKIE]))),
    }
}

fn keep(verdict: &Verdict, style: Style, asked: &[Field<'_>], answer: &mut impl Fields) {
    let is_there = |name: &&HeaderName| of_name(asked, name).next().is_some();
    let holders = || HOLDERS.iter().zip(Holder::ALL).filter(|(_, holder)| !verdict.strip.headers.contain(*holder));
    let cookie = (verdict.strip.cookie == StripCookie::Keep).then_some(&COOKIE);
    let kept = || holders().map(|(name, _)| name).chain(cookie).filter(is_there);
    answer.add(&KEEP, &joined(kept()));
    if style.takes_fields_from_the_answer() {
        for name in kept() {
            for field in of_name(asked, name) {
                answer.add(name, field.value);
            }
        }
    }
    if let StripCookie::Replace(rest) = &verdict.strip.cookie {
        if style.takes_fields_from_the_answer() {
            answer.add(&COOKIE, rest);
        }
        answer.add(&COOKIES, rest);
    }
    if !verdict.strip.query.is_empty()
        && let Ok(original) = style.read(asked)
    {
        answer.add(&TARGET, &without(original.target, &verdict.strip.query));
    }
}

/// Names, with a comma between each two.
fn joined<'a>(names: impl Iterator<Item = &'a HeaderName>) -> Vec<u8> {
    let mut joined = Vec::new();
    for name in names {
        if !joined.is_empty() {
            joined.extend_from_slice(b", ");
        }
        joined.extend_from_slice(name.as_str().as_bytes());
    }
    joined
}

fn of_name<'a>(fields: &'a [Field<'a>], name: &HeaderName) -> impl Iterator<Item = &'a Field<'a>> {
    fields.iter().filter(move |field| field.name == name.as_str().as_bytes())
}

/// `target` without these parameters of its query; all others stay as they were spelled.
fn without(target: &[u8], names: &[String]) -> Vec<u8> {
    let Some(at) = target.iter().position(|byte| *byte == b'?') else { return target.to_vec() };
    let (path, query) = target.split_at(at);
    let is_key = |pair: &&[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        names.iter().any(|known| known.as_bytes() == name)
    };
    let query = query.get(1..).unwrap_or_default();
    let pairs: Vec<_> = query.split(|byte| *byte == b'&').filter(|pair| !is_key(pair)).collect();
    let rest = pairs.join(&b"&"[..]);
    if rest.is_empty() { path.to_vec() } else { [path, b"?", &rest].concat() }
}

/// A refusal as a proxy takes it.
struct Refused {
    /// What it is,
    status: StatusCode,
    /// and what it is told as.
    told: StatusCode,
    fields: HeaderMap,
    body: Bytes,
}

impl Refused {
    fn new(refusal: &Refusal, style: Style) -> Self {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let problem = refusal.problem();
        let mut fields: HeaderMap = refusal.headers().into_iter().collect();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        let mut told = status;
        if style.knows_two_refusals() {
            if status != StatusCode::UNAUTHORIZED {
                told = StatusCode::FORBIDDEN;
            }
            fields.insert(&STATUS, HeaderValue::from(status.as_u16()));
            fields.insert(&REASON, HeaderValue::from_static(refusal.name()));
            if problem.len() <= LONGEST_TOLD
                && let Ok(problem) = HeaderValue::from_bytes(&problem)
            {
                fields.insert(&TOLD, problem);
            }
        }
        Self { status, told, fields, body: problem.into() }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::rpc::proxy::{Reason, Strip};

    fn head<'a>(fields: &[(&'a str, &'a str)]) -> Vec<Field<'a>> {
        fields.iter().map(|(name, value)| Field { name: name.as_bytes(), value: value.as_bytes() }).collect()
    }

    fn verdict(conclusion: Conclusion, strip: Strip) -> Verdict {
        Verdict { conclusion, strip, would: None, dry_run: false, realm: None, record: None }
    }

    fn field<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
        response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn fields_that_hold_no_key_may_go_on_and_others_may_not() {
        let head = head(&[("authorization", "Bearer eyJ"), ("x-api-key", "k"), ("cookie", "a=b"), ("accept", "*/*")]);
        let strip = |headers, cookie| Strip { headers, query: Vec::new(), cookie };
        for (strip, keep, cookie) in [
            (strip([Holder::XApiKey].into(), StripCookie::Keep), "authorization, cookie", None),
            (strip([Holder::Authorization, Holder::XApiKey].into(), StripCookie::Remove), "", None),
            (strip([].into(), StripCookie::Replace(b"a=b".to_vec())), "authorization, x-api-key", Some("a=b")),
        ] {
            let verdict = verdict(Conclusion::Anonymous, strip);
            for style in [Style::Nginx, Style::Forwarded] {
                let response = answer(&verdict, style, Some(&head));
                assert_eq!((response.status(), field(&response, "x-keyclasp-keep")), (StatusCode::OK, Some(keep)));
                assert_eq!(field(&response, "x-keyclasp-cookie"), cookie);
                assert_eq!(field(&response, "x-keyclasp-owner"), Some(""));
                assert!(
                    !response.headers().contains_key("authorization") && !response.headers().contains_key("cookie")
                );
            }
            let response = answer(&verdict, Style::Traefik, Some(&head));
            assert!(!response.headers().contains_key("x-keyclasp-owner"), "Traefik passes on empty fields");
            for name in ["authorization", "x-api-key", "cookie"] {
                let goes_on = keep.split(", ").any(|kept| kept == name) || (name == "cookie" && cookie.is_some());
                assert_eq!(response.headers().contains_key(name), goes_on, "{name} of {keep}");
            }
        }
    }

    #[test]
    fn lines_of_an_identity_begin_with_its_names() {
        assert_eq!(IDENTITY_LINES.map(str::to_owned), IDENTITY.map(|name| format!("{name}: ")));
    }

    #[test]
    fn a_key_in_the_query_goes_and_nothing_else_changes() {
        let names = ["api_key".to_owned(), "k".to_owned()];
        for (target, rest) in [
            ("/a?api_key=x", "/a"),
            ("/a/..%2f?b=%20&api_key=x&c=d+e&k&k=1", "/a/..%2f?b=%20&c=d+e"),
            ("/a?&api_keys=x&&", "/a?&api_keys=x&&"),
            ("/api_key=x", "/api_key=x"),
            ("/a?", "/a"),
        ] {
            assert_eq!(String::from_utf8(without(target.as_bytes(), &names)).unwrap(), rest, "{target}");
        }
        let strip = Strip { query: vec!["k".to_owned()], ..Strip::default() };
        let head = head(&[("x-original-uri", "/a?k=1&l=2"), ("x-original-method", "GET")]);
        let response = answer(&verdict(Conclusion::Anonymous, strip), Style::Nginx, Some(&head));
        assert_eq!(field(&response, "x-keyclasp-uri"), Some("/a?l=2"));
    }

    #[tokio::test]
    async fn every_refusal_is_one_that_the_proxy_knows() {
        for reason in Reason::ALL {
            let refusal = Refusal::new(reason);
            let (status, name) = (refusal.status(), refusal.name());
            let verdict = verdict(Conclusion::Refused(refusal), Strip::default());
            let head = head(&[("authorization", "Bearer eyJ")]);
            let plain = answer(&verdict, Style::Forwarded, Some(&head));
            assert_eq!(plain.status(), status);
            assert_eq!(field(&plain, "content-type"), Some("application/problem+json"));
            assert_eq!(field(&plain, "www-authenticate").is_some(), status == 401);
            assert_eq!(field(&plain, "retry-after").is_some(), matches!(status, 429 | 503));
            assert!(field(&plain, "x-keyclasp-reason").is_none() && field(&plain, "x-keyclasp-keep").is_none());
            let body = plain.into_body().collect().await.unwrap().to_bytes();

            let nginx = answer(&verdict, Style::Nginx, Some(&head));
            assert_eq!(nginx.status(), if status == 401 { 401 } else { 403 }, "{reason:?}");
            assert_eq!(field(&nginx, "x-keyclasp-status"), Some(status.to_string().as_str()));
            assert_eq!(field(&nginx, "x-keyclasp-reason"), Some(name));
            assert_eq!(field(&nginx, "x-keyclasp-problem").map(str::as_bytes), Some(&body[..]));
        }
    }

    #[test]
    fn a_dry_run_says_what_it_would_have_done_and_keeps_everything() {
        let mut verdict = verdict(Conclusion::Anonymous, Strip::default());
        verdict.would = Some(Refusal::new(Reason::Unknown));
        let response = answer(&verdict, Style::Forwarded, Some(&head(&[("x-api-key", "k")])));
        assert_eq!((response.status(), field(&response, "x-keyclasp-keep")), (StatusCode::OK, Some("x-api-key")));
        assert_eq!(field(&response, "x-keyclasp-dry-run"), Some("invalid-key"), "no more than strangers are told");
    }
}
