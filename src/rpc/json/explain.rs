//! What is wrong with a JSON body. The parser's own message would repeat what it found, and that
//! may be a key: this looks again, and names fields, never values.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Value, json};

use crate::service::{Error, ErrorKind, FieldViolation};

/// More violations than this help nobody.
pub(super) const MAX_VIOLATIONS: usize = 20;
/// More characters than this of a name that the caller made up do not either.
const MAX_NAME: usize = 64;

/// Why `text` cannot be read as a message of this descriptor, which it cannot.
pub(super) fn explain(descriptor: &MessageDescriptor, text: &[u8]) -> Error {
    let value: Value = match serde_json::from_slice(text) {
        Ok(value) => value,
        Err(error) => {
            let message = format!("the body is not JSON: line {}, column {}", error.line(), error.column());
            return Error::new(ErrorKind::RequestMalformed, message);
        }
    };
    let mut found = Violations::default();
    found.message(descriptor, &value, "");
    if found.violations.is_empty() {
        let message = format!("the body is not the JSON form of {}", descriptor.full_name());
        return Error::new(ErrorKind::RequestMalformed, message);
    }
    Error::fields(found.violations)
}

#[derive(Default)]
struct Violations {
    violations: Vec<FieldViolation>,
}

impl Violations {
    fn add(&mut self, field: &str, problem: impl Into<String>) {
        self.violations.push(FieldViolation { field: field.to_owned(), problem: problem.into() });
    }

    fn message(&mut self, descriptor: &MessageDescriptor, value: &Value, path: &str) {
        let Value::Object(members) = value else {
            return self.add(if path.is_empty() { "body" } else { path }, "must be an object");
        };
        let mut oneofs = Vec::new();
        for (name, value) in members {
            if self.violations.len() >= MAX_VIOLATIONS {
                return;
            }
            let at = child(path, name);
            let Some(field) = descriptor.get_field_by_json_name(name).or_else(|| descriptor.get_field_by_name(name))
            else {
                let known: Vec<_> = descriptor.fields().map(|field| field.json_name().to_owned()).collect();
                self.add(&at, format!("there is no such field; there are {}", known.join(", ")));
                continue;
            };
            if let Some(oneof) = field.containing_oneof() {
                if oneofs.contains(&oneof) {
                    let of: Vec<_> = oneof.fields().map(|field| field.json_name().to_owned()).collect();
                    self.add(&at, format!("only one of {} can be given", of.join(", ")));
                    continue;
                }
                oneofs.push(oneof);
            }
            let alone = json!({ name: value });
            if DynamicMessage::deserialize(descriptor.clone(), &alone).is_err() {
                self.field(&field, value, &at);
            }
        }
    }

    /// `value` alone cannot be read as `field`.
    fn field(&mut self, field: &FieldDescriptor, value: &Value, at: &str) {
        let before = self.violations.len();
        if let (Kind::Message(inner), false) = (field.kind(), field.is_map())
            && inner.package_name() != "google.protobuf"
        {
            match (field.is_list(), value) {
                (true, Value::Array(items)) => {
                    for (index, item) in items.iter().enumerate() {
                        if self.violations.len() < MAX_VIOLATIONS
                            && DynamicMessage::deserialize(inner.clone(), item).is_err()
                        {
                            self.message(&inner, item, &format!("{at}[{index}]"));
                        }
                    }
                }
                (true, _) => {}
                (false, value) => self.message(&inner, value, at),
            }
        }
        if self.violations.len() == before {
            self.add(at, format!("must be {}", form(field)));
        }
    }
}

/// What a field looks like in JSON.
fn form(field: &FieldDescriptor) -> String {
    if field.is_map() {
        return "an object with a string for each name".to_owned();
    }
    let one = match field.kind() {
        Kind::Bool => "true or false".to_owned(),
        Kind::String => "a string".to_owned(),
        Kind::Bytes => "a string in base64".to_owned(),
        Kind::Double | Kind::Float => "a number".to_owned(),
        Kind::Enum(values) => {
            let names: Vec<_> = values.values().map(|value| value.name().to_owned()).collect();
            format!("one of {}", names.join(", "))
        }
        Kind::Message(message) => match message.name() {
            "Timestamp" => "a time such as \"2030-01-31T12:00:00Z\"".to_owned(),
            "Duration" => "a number of seconds such as \"3600s\"".to_owned(),
            "FieldMask" => "names of fields such as \"name,expiresAt\"".to_owned(),
            name => format!("an object ({name})"),
        },
        _ => "a whole number in its range".to_owned(),
    };
    if field.is_list() { format!("a list, each {one}") } else { one }
}

/// The path of the member of what is at `path`.
pub(super) fn child(path: &str, name: &str) -> String {
    let name: String = name.chars().take(MAX_NAME).collect();
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::methods::Methods;

    fn explained(body: &str) -> Error {
        let methods = Methods::load().unwrap();
        let descriptor = methods.message("keyclasp.v1.CreateKeyRequest").unwrap();
        assert!(
            DynamicMessage::deserialize(descriptor.clone(), &mut serde_json::Deserializer::from_str(body)).is_err(),
            "{body} can be read"
        );
        explain(&descriptor, body.as_bytes())
    }

    #[test]
    fn the_fields_at_fault_are_named() {
        let table = [
            (r#"{"realm":1}"#, "realm", "must be a string"),
            (r#"{"relm":"a"}"#, "relm", "there is no such field; there are realm, owner,"),
            (r#"{"owner":{"idd":"x"}}"#, "owner.idd", "there is no such field; there are kind, id, displayName"),
            (r#"{"owner":{"kind":"USER"}}"#, "owner.kind", "one of OWNER_KIND_UNSPECIFIED, OWNER_KIND_USER,"),
            (r#"{"owner":"me"}"#, "owner", "must be an object"),
            (r#"{"scopes":"a b"}"#, "scopes", "must be a list, each a string"),
            (r#"{"scopes":["a",7]}"#, "scopes", "must be a list, each a string"),
            (r#"{"ttl":"1h"}"#, "ttl", "must be a number of seconds such as \"3600s\""),
            (r#"{"ttl":"1s","expiresAt":"2030-01-01T00:00:00Z"}"#, "ttl", "only one of ttl, expiresAt can be given"),
            (r#"{"expires_at":"tomorrow"}"#, "expires_at", "must be a time such as"),
            (r#"{"metadata":{"a":{}}}"#, "metadata", "an object with a string for each name"),
            (r#"[]"#, "body", "must be an object"),
        ];
        for (body, field, problem) in table {
            let error = explained(body);
            assert_eq!(error.kind, ErrorKind::InvalidArgument, "{body}");
            let [violation] = error.violations.as_slice() else { panic!("{body}: {:?}", error.violations) };
            assert_eq!(violation.field, field, "{body}");
            assert!(violation.problem.contains(problem), "{body}: {}", violation.problem);
        }
    }

    #[test]
    fn what_was_sent_is_not_repeated() {
        for body in [
            r#"{"realm":["kc_SECRET"]}"#,
            r#"{"owner":{"kind":"kc_SECRET"}}"#,
            r#"{"ttl":"kc_SECRET"}"#,
            r#"{"scopes":"kc_SECRET"}"#,
            r#"{"realm":"kc_SECRET}"#,
            r#""kc_SECRET""#,
            "kc_SECRET",
        ] {
            let error = explained(body);
            assert!(!format!("{error:?}").contains("SECRET"), "{error:?}");
        }
    }

    #[test]
    fn a_body_of_nonsense_gives_a_bounded_answer() {
        let members: Vec<_> = (0..10_000).map(|index| format!("\"x{index}{}\":1", "y".repeat(100))).collect();
        let error = explained(&format!("{{{}}}", members.join(",")));
        assert_eq!(error.violations.len(), MAX_VIOLATIONS);
        assert!(error.violations.iter().all(|violation| violation.field.len() <= MAX_NAME));
    }
}
