//! Keys and what was done to them, for people.

use super::failure::Failure;
use super::issue::Issued;
use super::output::{Format, Out, Table};
use super::values::{shown_duration, shown_enum, shown_owner, shown_time};
use crate::rpc::proto::v1;

/// Everything about one key.
pub(super) fn key(key: &v1::Key) -> Table {
    Table::of_fields(key_fields(key))
}

fn key_fields(key: &v1::Key) -> Vec<(&'static str, String)> {
    let owner = key.owner.as_ref();
    let display_name = owner.map(|owner| owner.display_name.as_str()).filter(|name| !name.is_empty());
    let ended = |by: &str, reason: &str, at: String| match (at.as_str(), reason) {
        ("", _) => String::new(),
        (_, "") => format!("{at} by {by}"),
        _ => format!("{at} by {by}: {reason}"),
    };
    vec![
        ("id", key.id.clone()),
        ("realm", key.realm.clone()),
        (
            "owner",
            match display_name {
                Some(name) => format!("{} ({name})", shown_owner(owner)),
                None => shown_owner(owner),
            },
        ),
        ("name", key.name.clone()),
        ("description", key.description.clone()),
        ("status", status(key)),
        ("scopes", key.scopes.join(" ")),
        ("created", ended(&key.created_by, "", shown_time(key.created_at.as_ref()))),
        ("valid from", shown_time(key.not_before.as_ref())),
        (
            "expires",
            match shown_time(key.expires_at.as_ref()) {
                time if time.is_empty() => "never".to_owned(),
                time => time,
            },
        ),
        ("suspended", key.suspensions.iter().map(suspension).collect::<Vec<_>>().join("; ")),
        ("revoked", ended(&key.revoked_by, &key.revoke_reason, shown_time(key.revoked_at.as_ref()))),
        ("networks", key.allowed_cidrs.join(" ")),
        ("principals", key.allowed_principals.join(" ")),
        ("replaces", key.rotated_from.clone()),
        ("replaced by", key.rotated_to.clone()),
        ("labels", labels(key)),
        ("version", key.version.to_string()),
    ]
}

/// Many keys, a line each.
pub(super) fn keys(keys: &[v1::Key]) -> Table {
    let mut table = Table::with_columns(&["ID", "NAME", "OWNER", "STATUS", "EXPIRES", "SCOPES"]);
    for key in keys {
        let expires = shown_time(key.expires_at.as_ref());
        table.row(vec![
            key.id.clone(),
            or_dash(&key.name),
            shown_owner(key.owner.as_ref()),
            status(key),
            if expires.is_empty() { "never".to_owned() } else { expires },
            or_dash(&key.scopes.join(" ")),
        ]);
    }
    table
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn status(key: &v1::Key) -> String {
    shown_enum(key.status().as_str_name(), "KEY_STATUS_")
}

fn suspension(one: &v1::Suspension) -> String {
    let reason = shown_enum(one.reason().as_str_name(), "SUSPENSION_REASON_");
    let mut text = format!("{reason} since {} by {}", shown_time(one.at.as_ref()), one.by);
    if one.until.is_some() {
        text.push_str(&format!(" until {}", shown_time(one.until.as_ref())));
    }
    if !one.note.is_empty() {
        text.push_str(&format!(": {}", one.note));
    }
    text
}

fn labels(key: &v1::Key) -> String {
    let mut labels: Vec<_> = key.metadata.iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.sort();
    labels.join(" ")
}

/// A new key, with its text this once.
pub(super) fn issued(issued: &Issued, out: &mut Out) -> Result<(), Failure> {
    let key = issued.key();
    let text = issued.api_key();
    let seen = format!(
        "The request_id was used before: this is the key that it made. Its text was shown then and cannot be had \
         again; `keyclasp key rotate {}` makes another.",
        key.id
    );
    if out.is_quiet() {
        return if text.is_empty() { Err(Failure::refused(seen)) } else { out.line(text) };
    }
    let table = || {
        let mut fields = vec![("api key", text.to_owned())];
        fields.extend(key_fields(&key));
        Table::of_fields(fields)
    };
    match issued {
        Issued::Created(response) => out.answer("CreateKeyResponse", response.as_ref(), table)?,
        Issued::Rotated(response) => out.answer("RotateKeyResponse", response.as_ref(), table)?,
    }
    if text.is_empty() {
        out.note(&seen);
    } else if out.format() == Format::Table {
        out.note("Keep the api key now: it is shown this once and cannot be had again.");
    }
    Ok(())
}

/// What an answer waited for; empty where it waited for nothing that is worth a word.
pub(super) fn fence(fence: Option<&v1::Fence>) -> String {
    match fence {
        Some(fence) if fence.lapsed > 0 => format!(
            "{} silent replicas were waited for until they could accept the key no more ({})",
            fence.lapsed,
            shown_duration(fence.duration.as_ref())
        ),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_shows_what_it_has_and_leaves_out_what_it_has_not() {
        let mut shown = v1::Key {
            id: "0000000000000000000001".to_owned(),
            realm: "acme".to_owned(),
            owner: Some(v1::Owner { kind: 1, id: "alice".to_owned(), display_name: "Alice".to_owned() }),
            status: v1::KeyStatus::Active.into(),
            created_by: "admin".to_owned(),
            created_at: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            version: 1,
            ..v1::Key::default()
        };
        assert_eq!(
            key(&shown).render(),
            "id       0000000000000000000001\n\
             realm    acme\n\
             owner    user:alice (Alice)\n\
             status   active\n\
             created  1970-01-01T00:00:00Z by admin\n\
             expires  never\n\
             version  1\n"
        );
        shown.status = v1::KeyStatus::Suspended.into();
        shown.suspensions = vec![v1::Suspension {
            reason: v1::SuspensionReason::OwnerLocked.into(),
            by: "keycloak".to_owned(),
            at: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            until: Some(prost_types::Timestamp { seconds: 2, nanos: 0 }),
            note: "too many logins".to_owned(),
        }];
        assert!(key(&shown).render().contains(
            "suspended  owner locked since 1970-01-01T00:00:01Z by keycloak until 1970-01-01T00:00:02Z: too many logins"
        ));
    }
}
