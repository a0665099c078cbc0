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
use crate::rpc::proxy::{Conclusion, IDENTITY, PROBLEM, Refusal, StripCookie, Verdict, identity};

/// Which of the fields that can hold a key hold none, and may go on to the upstream.
const KEEP: HeaderName = HeaderName::from_static("x-keyclasp-keep");
/// Other cookies, where the key was one.
const COOKIES: HeaderName = HeaderName::from_static("x-keyclasp-cookie");
/// Path and query without the key, where it stood in the query.
const TARGET: HeaderName = HeaderName::from_static("x-keyclasp-uri");
/// In a dry run: why the request would have been refused.
const DRY_RUN: HeaderName = HeaderName::from_static("x-keyclasp-dry-run");
/// For a proxy that knows two refusals: which status it is really,
const STATUS: HeaderName = HeaderName::from_static("x-keyclasp-status");
/// why,
const REASON: HeaderName = HeaderName::from_static("x-keyclasp-reason");
/// and what the client shall be told, as the body of an answer is not passed on.
const TOLD: HeaderName = HeaderName::from_static("x-keyclasp-problem");
/// Longest value of that: nginx takes 4 KiB of header fields unless it is configured otherwise.
const LONGEST_TOLD: usize = 2048;

/// Fields that can hold a key and nothing else, or a key instead of something else.
const HOLDERS: [HeaderName; 3] =
    [AUTHORIZATION, HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key")];

/// The answer to the proxy whose question had the header `head`; None where that is not known any more.
pub(super) fn answer(verdict: &Verdict, style: Style, head: Option<&HeaderMap>) -> Response<Body> {
    if let Conclusion::Refused(refusal) = &verdict.conclusion {
        return refused(refusal, style);
    }
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    if !style.takes_fields_from_the_answer() {
        // Caddy writes down the name of a field that it shall copy and does not find.
        for name in IDENTITY {
            headers.insert(name, HeaderValue::from_static(""));
        }
    }
    if let Conclusion::Key(held) = &verdict.conclusion {
        for (name, value) in identity(held.record()) {
            // Visible ASCII is always a value.
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }
    if let Some(would) = &verdict.would {
        headers.insert(DRY_RUN, HeaderValue::from_static(would.name()));
    }
    match head {
        Some(head) => keep(verdict, style, head, headers),
        // Nobody looked for a key: a dry run, which takes nothing away, but behind Traefik, which takes from here what
        // is not known any more.
        None => {
            headers.insert(KEEP, HeaderValue::from_static("authorization, x-api-key, api-key, cookie"));
        }
    }
    response
}

fn keep(verdict: &Verdict, style: Style, head: &HeaderMap, answer: &mut HeaderMap) {
    let stays = |name: &HeaderName| {
        let stripped = match &verdict.strip.cookie {
            _ if *name != COOKIE => verdict.strip.headers.contains(&name.as_str()),
            StripCookie::Keep => false,
            StripCookie::Remove | StripCookie::Replace(_) => true,
        };
        head.contains_key(name) && !stripped
    };
    let kept: Vec<_> = HOLDERS.into_iter().chain([COOKIE]).filter(stays).collect();
    let names: Vec<_> = kept.iter().map(HeaderName::as_str).collect();
    if let Ok(names) = HeaderValue::try_from(names.join(", ")) {
        answer.insert(KEEP, names);
    }
    if style.takes_fields_from_the_answer() {
        for name in &kept {
            for value in head.get_all(name) {
                answer.append(name, value.clone());
            }
        }
    }
    if let StripCookie::Replace(rest) = &verdict.strip.cookie
        && let Ok(mut rest) = HeaderValue::from_bytes(rest)
    {
        rest.set_sensitive(true);
        if style.takes_fields_from_the_answer() {
            answer.insert(COOKIE, rest.clone());
        }
        answer.insert(COOKIES, rest);
    }
    if !verdict.strip.query.is_empty()
        && let Ok(original) = style.read(head)
        && let Ok(target) = HeaderValue::from_bytes(&without(original.target, &verdict.strip.query))
    {
        answer.insert(TARGET, target);
    }
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

fn refused(refusal: &Refusal, style: Style) -> Response<Body> {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let problem = refusal.problem();
    let mut headers: HeaderMap = refusal.headers().into_iter().collect();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
    let told = if style.knows_two_refusals() && !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        StatusCode::FORBIDDEN
    } else {
        status
    };
    if style.knows_two_refusals() {
        headers.insert(STATUS, HeaderValue::from(status.as_u16()));
        headers.insert(REASON, HeaderValue::from_static(refusal.name()));
        if problem.len() <= LONGEST_TOLD
            && let Ok(problem) = HeaderValue::from_bytes(&problem)
        {
            headers.insert(TOLD, problem);
        }
    }
    let mut response = Response::new(Body::new(Full::new(Bytes::from(problem))));
    *response.status_mut() = told;
    *response.headers_mut() = headers;
    count_as(&mut response, status);
    response
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::rpc::proxy::{Reason, Strip};

    fn head(fields: &[(&str, &str)]) -> HeaderMap {
        let mut request = Request::builder();
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0.headers
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
        let strip = |headers: &[&'static str], cookie| Strip { headers: headers.to_vec(), query: Vec::new(), cookie };
        for (strip, keep, cookie) in [
            (strip(&["x-api-key"], StripCookie::Keep), "authorization, cookie", None),
            (strip(&["authorization", "x-api-key"], StripCookie::Remove), "", None),
            (strip(&[], StripCookie::Replace(b"a=b".to_vec())), "authorization, x-api-key", Some("a=b")),
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
