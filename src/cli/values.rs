//! What people type and read: owners, durations, times, labels.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::parse_owner;
use crate::key::{KeyId, OwnerKind};
use crate::rpc::proto::v1;

use super::failure::Failure;

/// A duration such as `14d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(span) if span.is_zero() => Err("it must be more than nothing".to_owned()),
        Ok(span) => Ok(span),
        Err(_) => Err("write it as 14d, 12h or 90s".to_owned()),
    }
}

/// A duration that may be nothing.
pub(super) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    if text == "0" {
        Ok(Duration::ZERO)
    } else {
        humantime::parse_duration(text).map_err(|_| "write it as 12h, 90s or 0".to_owned())
    }
}

/// A point in time, by itself or relative to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    At(Timestamp),
    FromNow(Duration),
}

impl When {
    /// This long after now.
    pub(super) fn ahead(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::FromNow(span) => now.after(span),
        }
    }

    /// This long before now.
    pub(super) fn ago(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::FromNow(span) => Timestamp::from_millis(
                now.as_millis().saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            ),
        }
    }
}

/// A time, or a duration.
pub(super) fn when(text: &str) -> Result<When, String> {
    if let Ok(span) = duration(text) {
        return Ok(When::FromNow(span));
    }
    let form = || "write it as 2026-12-31T23:59:59Z, or as a duration such as 14d".to_owned();
    let time: jiff::Timestamp = text.parse().map_err(|_| form())?;
    let millis = u64::try_from(time.as_millisecond()).map_err(|_| "it must not lie before 1970".to_owned())?;
    Ok(When::At(Timestamp::from_millis(millis)))
}

/// `user:ID` and the like, as the API has it.
pub(super) fn owner(text: &str) -> Result<v1::Owner, String> {
    let owner = parse_owner(text).map_err(|error| error.to_string())?;
    let kind = i32::from(owner.kind().number());
    Ok(v1::Owner { kind, id: owner.id().to_owned(), display_name: String::new() })
}

/// `name=value`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A key's id. What is no id is not repeated: it may be the text of a key.
pub(super) fn key_id(text: &str) -> Result<String, Failure> {
    match text.parse::<KeyId>() {
        Ok(id) => Ok(id.to_string()),
        Err(_) if text.len() > 30 => Err(Failure::usage(
            "that is no id but rather the text of a key, a secret that others on this machine may have seen now: \
             rotate that key, and name keys by the 22 characters in the middle",
        )),
        Err(error) => Err(Failure::usage(error.to_string())),
    }
}

/// A time as the API has it.
pub(super) fn wire_time(time: Timestamp) -> prost_types::Timestamp {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(millis % 1000).unwrap_or_default() * 1_000_000;
    prost_types::Timestamp { seconds: millis / 1000, nanos }
}

/// A duration as the API has it; what is beyond it becomes its longest.
pub(super) fn wire_duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(span).unwrap_or(prost_types::Duration { seconds: 315_576_000_000, nanos: 0 })
}

/// A time for people: RFC 3339 in UTC, to the second. Empty: there is none.
pub(super) fn shown_time(time: Option<&prost_types::Timestamp>) -> String {
    let Some(time) = time else { return String::new() };
    let seconds = u64::try_from(time.seconds).unwrap_or_default();
    let time = Timestamp::from_millis(seconds.saturating_mul(1000)).to_string();
    time.replace(".000Z", "Z")
}

/// A duration for people. Empty: there is none.
pub(super) fn shown_duration(span: Option<&prost_types::Duration>) -> String {
    let Some(span) = span else { return String::new() };
    let (sign, span) = match Duration::try_from(*span) {
        Ok(span) => ("", span),
        Err(prost_types::DurationError::NegativeDuration(span)) => ("-", span),
        Err(_) => return String::new(),
    };
    // Below a microsecond nobody reads on.
    let span = Duration::from_micros(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
    format!("{sign}{}", humantime::format_duration(span))
}

/// An owner for people. Empty: there is none.
pub(super) fn shown_owner(owner: Option<&v1::Owner>) -> String {
    let Some(owner) = owner else { return String::new() };
    let kind = u32::try_from(owner.kind).ok().and_then(OwnerKind::from_number);
    format!("{}:{}", kind.map_or("unknown", OwnerKind::name), owner.id)
}

/// The name of an enum's value for people: `KEY_STATUS_ACTIVE` is `active`.
pub(super) fn shown_enum(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).replace('_', " ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations() {
        let now = Timestamp::from_millis(1_000_000);
        assert_eq!(when("1970-01-01T00:00:01Z"), Ok(When::At(Timestamp::from_millis(1000))));
        assert_eq!(when("1970-01-01T01:00:01+01:00"), Ok(When::At(Timestamp::from_millis(1000))));
        assert_eq!(when("100s").unwrap().ahead(now), Timestamp::from_millis(1_100_000));
        assert_eq!(when("100s").unwrap().ago(now), Timestamp::from_millis(900_000));
        assert_eq!(when("1d").unwrap().ago(now), Timestamp::from_millis(0));
        for bad in ["", "tomorrow", "14", "0s", "1969-01-01T00:00:00Z", "2026-12-31"] {
            assert!(when(bad).is_err(), "{bad}");
        }
        assert_eq!(duration("14d"), Ok(Duration::from_secs(14 * 24 * 60 * 60)));
        assert!(duration("0s").is_err() && duration("14").is_err());
        assert_eq!(duration_or_zero("0"), Ok(Duration::ZERO));
        assert_eq!(shown_time(Some(&wire_time(Timestamp::from_millis(1_500)))), "1970-01-01T00:00:01Z");
        assert_eq!(wire_time(Timestamp::from_millis(1_500)).nanos, 500_000_000);
    }

    #[test]
    fn durations_can_be_negative() {
        let shown = |seconds, nanos| shown_duration(Some(&prost_types::Duration { seconds, nanos }));
        assert_eq!(shown(1, 500_000_000), "1s 500ms");
        assert_eq!(shown(0, -2_000_999), "-2ms");
        assert_eq!(shown(0, 0), "0s");
    }

    #[test]
    fn owners() {
        let alice = owner("service-account:alice").unwrap();
        assert_eq!((alice.kind(), alice.id.as_str()), (v1::OwnerKind::ServiceAccount, "alice"));
        assert_eq!(shown_owner(Some(&alice)), "service-account:alice");
        assert!(owner("alice").unwrap_err().contains("user:ID"));
        assert!(owner("user:").is_err());
    }

    #[test]
    fn a_key_in_place_of_an_id_is_not_repeated() {
        assert_eq!(key_id("0000000000000000000001").ok().as_deref(), Some("0000000000000000000001"));
        let secret = "kc_0000000000000000000001_secret";
        let failure = key_id(secret).unwrap_err();
        assert!(failure.text().contains("rotate") && !failure.text().contains("secret_"), "{}", failure.text());
        assert!(!key_id("short").unwrap_err().text().contains("short"));
    }

    #[test]
    fn names_of_enums() {
        assert_eq!(shown_enum("OUTCOME_MISSING_SCOPE", "OUTCOME_"), "missing scope");
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(label("a").is_err());
    }
}
