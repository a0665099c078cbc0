//! How long a call may take: what the caller grants, less what the answer needs on its way back.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::service::{Error, ErrorKind};

/// gRPC's header.
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Connect's header, for JSON.
const CONNECT_TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");

/// The bounds of a call's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// For a call that names no time.
    pub default: Duration,
    /// For a call that names more than this.
    pub max: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { default: Duration::from_secs(15), max: Duration::from_secs(60) }
    }
}

/// In which form the caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// gRPC: `grpc-timeout`.
    Grpc,
    /// JSON: `Connect-Timeout-Ms`.
    Json,
}

impl Deadlines {
    /// How long the work for a request with these headers may take.
    ///
    /// # Errors
    /// When the header is not what its specification says.
    pub(super) fn budget(&self, headers: &HeaderMap, form: Form) -> Result<Duration, Error> {
        let (name, parse): (_, fn(&HeaderValue) -> Option<Duration>) = match form {
            Form::Grpc => (GRPC_TIMEOUT, grpc_timeout),
            Form::Json => (CONNECT_TIMEOUT, connect_timeout),
        };
        let Some(value) = headers.get(&name) else { return Ok(self.default) };
        match parse(value) {
            Some(timeout) => Ok(budget(timeout).min(self.max)),
            None => Err(Error::new(
                ErrorKind::RequestMalformed,
                match form {
                    Form::Grpc => "grpc-timeout must be 1 to 8 digits and a unit of H, M, S, m, u, n",
                    Form::Json => "connect-timeout-ms must be 1 to 10 digits",
                },
            )),
        }
    }
}

/// What is left of a caller's timeout for the work: the rest, a part of it that is never more than
/// half, is for the answer's way back, so that the caller hears of a deadline from us.
#[must_use]
pub fn budget(timeout: Duration) -> Duration {
    let way_back = (timeout / 2).min(Duration::from_millis(20)).max(timeout / 20);
    timeout.saturating_sub(way_back)
}

/// `TimeoutValue TimeoutUnit` of the gRPC specification.
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    let amount = number(digits, 8)?;
    Some(match unit {
        b'H' => Duration::from_secs(amount.checked_mul(3600)?),
        b'M' => Duration::from_secs(amount.checked_mul(60)?),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// `Timeout-Milliseconds` of Connect's specification.
fn connect_timeout(value: &HeaderValue) -> Option<Duration> {
    number(value.as_bytes(), 10).map(Duration::from_millis)
}

fn number(digits: &[u8], longest: usize) -> Option<u64> {
    let fits = (1..=longest).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    fits.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(form: Form, name: &HeaderName, value: &str) -> Result<Duration, ErrorKind> {
        let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_str(value).unwrap())]);
        let deadlines = Deadlines { default: Duration::from_secs(15), max: Duration::from_secs(1_000_000_000) };
        deadlines.budget(&headers, form).map_err(|error| error.kind)
    }

    proptest! {
        #[test]
        fn the_budget_is_the_timeout_less_the_greater_of_a_twentieth_and_at_most_twenty_milliseconds(nanos in 0..u64::MAX / 2) {
            let timeout = Duration::from_nanos(nanos);
            let budget = budget(timeout);
            let way_back = timeout.checked_sub(budget).expect("never more than the timeout");
            // In integers, so that the model does not share the rounding of the code.
            let expected = (nanos / 2).min(20_000_000).max(nanos / 20);
            prop_assert_eq!(u64::try_from(way_back.as_nanos()).unwrap(), expected);
            prop_assert!(budget >= timeout / 2);
            prop_assert!(nanos == 0 || budget > Duration::ZERO);
        }

        #[test]
        fn a_timeout_reads_as_its_digits_and_unit(amount in 0_u64..=99_999_999, unit in 0_usize..6) {
            let (letter, nanos): (char, u128) =
                [('H', 3_600_000_000_000), ('M', 60_000_000_000), ('S', 1_000_000_000), ('m', 1_000_000), ('u', 1000), ('n', 1)][unit];
            let timeout = grpc_timeout(&HeaderValue::from_str(&format!("{amount}{letter}")).unwrap()).unwrap();
            prop_assert_eq!(timeout.as_nanos(), u128::from(amount) * nanos);
        }

        #[test]
        fn nothing_else_is_a_timeout(text in "[ -~]{0,12}") {
            let is_timeout = text.len() >= 2
                && text.len() <= 9
                && text.ends_with(['H', 'M', 'S', 'm', 'u', 'n'])
                && text[..text.len() - 1].bytes().all(|byte| byte.is_ascii_digit());
            let read = asked(Form::Grpc, &GRPC_TIMEOUT, &text);
            prop_assert_eq!(read.is_ok(), is_timeout);
            prop_assert!(is_timeout || read == Err(ErrorKind::RequestMalformed));
        }
    }

    #[test]
    fn examples() {
        let milliseconds = |timeout| budget(Duration::from_millis(timeout)).as_millis();
        assert_eq!([10, 40, 50, 400, 1000, 10_000].map(milliseconds), [5, 20, 30, 380, 950, 9500]);
        assert_eq!(asked(Form::Json, &CONNECT_TIMEOUT, "1000"), Ok(Duration::from_millis(950)));
        assert_eq!(asked(Form::Json, &CONNECT_TIMEOUT, "1000m"), Err(ErrorKind::RequestMalformed));
        assert_eq!(asked(Form::Json, &CONNECT_TIMEOUT, "12345678901"), Err(ErrorKind::RequestMalformed));
        assert_eq!(asked(Form::Json, &GRPC_TIMEOUT, "1S"), Ok(Duration::from_secs(15)), "not a header of JSON");
        assert_eq!(asked(Form::Grpc, &CONNECT_TIMEOUT, "1"), Ok(Duration::from_secs(15)), "not a header of gRPC");
    }

    #[test]
    fn no_header_is_the_default_and_a_long_one_is_capped() {
        let deadlines = Deadlines::default();
        assert_eq!(deadlines.budget(&HeaderMap::new(), Form::Grpc), Ok(Duration::from_secs(15)));
        let hour = HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static("1H"))]);
        assert_eq!(deadlines.budget(&hour, Form::Grpc), Ok(Duration::from_secs(60)));
    }
}
