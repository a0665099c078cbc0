//! Members that a JSON body gives more than once. JSON itself leaves open which one counts: another
//! reader of the same text, such as a proxy that checks it, may have seen the other. So they are
//! refused, also where the two are two spellings of one field. Names fields, never values.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::explain::{MAX_VIOLATIONS, child};
use crate::service::FieldViolation;

/// What `text` gives twice, to be read as a message of this descriptor.
///
/// # Errors
/// When it is not JSON.
pub(super) fn duplicates(
    descriptor: &MessageDescriptor,
    text: &[u8],
) -> Result<Vec<FieldViolation>, serde_json::Error> {
    let mut found = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    Within { what: What::Message(descriptor.clone()), path: String::new(), found: &mut found }
        .deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(found)
}

/// What a value is in protobuf.
#[derive(Clone)]
enum What {
    Message(MessageDescriptor),
    /// A map from names that the caller chose.
    Map(Box<What>),
    /// Anything else, or nothing that there is.
    Other,
}

impl What {
    /// The value of a field; of each item if there are several.
    fn of(field: &FieldDescriptor) -> Self {
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let value = entry.fields().find(|part| part.number() == 2);
                Self::Map(Box::new(value.as_ref().map_or(Self::Other, Self::of)))
            }
            // Those have a form of their own in JSON.
            Kind::Message(message) if message.package_name() != "google.protobuf" => Self::Message(message),
            _ => Self::Other,
        }
    }
}

/// Looks at one value.
struct Within<'a> {
    what: What,
    path: String,
    found: &'a mut Vec<FieldViolation>,
}

impl Within<'_> {
    fn add(&mut self, field: String, problem: String) {
        if self.found.len() < MAX_VIOLATIONS {
            self.found.push(FieldViolation { field, problem });
        }
    }
}

impl<'de> DeserializeSeed<'de> for Within<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Within<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for index in 0_usize.. {
            let path = match self.what {
                // However deep what nobody asked for is, its path does not grow.
                What::Other => self.path.clone(),
                _ => format!("{}[{index}]", self.path),
            };
            let item = Within { what: self.what.clone(), path, found: &mut *self.found };
            if items.next_element_seed(item)?.is_none() {
                return Ok(());
            }
        }
        Err(A::Error::custom("more items than can be counted"))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let (mut fields, mut names) = (BTreeSet::new(), HashSet::new());
        while let Some(name) = members.next_key::<String>()? {
            let (what, path) = match &self.what {
                What::Message(descriptor) => {
                    let at = child(&self.path, &name);
                    let field =
                        descriptor.get_field_by_json_name(&name).or_else(|| descriptor.get_field_by_name(&name));
                    let what = field.as_ref().map_or(What::Other, What::of);
                    match field {
                        Some(field) if !fields.insert(field.number()) => self.add(at.clone(), given_twice(&field)),
                        None if !names.insert(name) => self.add(at.clone(), "is given more than once".to_owned()),
                        _ => {}
                    }
                    (what, at)
                }
                outer @ (What::Map(_) | What::Other) => {
                    let what = if let What::Map(value) = outer { (**value).clone() } else { What::Other };
                    let at = self.path.clone();
                    if !names.insert(name) {
                        // The names may say as much as the values.
                        self.add(at.clone(), "one of its names is given more than once".to_owned());
                    }
                    (what, at)
                }
            };
            members.next_value_seed(Within { what, path, found: &mut *self.found })?;
        }
        Ok(())
    }
}

fn given_twice(field: &FieldDescriptor) -> String {
    if field.json_name() == field.name() {
        return "is given more than once".to_owned();
    }
    format!("is given more than once; {} and {} are the same field", field.json_name(), field.name())
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::rpc::methods::Methods;

    fn fields(message: &str, body: &str) -> Vec<(String, String)> {
        static METHODS: LazyLock<Methods> = LazyLock::new(|| Methods::load().unwrap());
        let descriptor = METHODS.message(message).unwrap();
        let found = duplicates(&descriptor, body.as_bytes()).unwrap();
        found.into_iter().map(|violation| (violation.field, violation.problem)).collect()
    }

    #[test]
    fn what_is_given_twice_is_named_at_every_depth() {
        let (create, key) = ("keyclasp.v1.CreateKeyRequest", "keyclasp.v1.Key");
        let both = "expiresAt and expires_at are the same field";
        let table = [
            (create, r#"{"realm":"a","name":"n","realm":"a"}"#, "realm", "is given more than once"),
            (create, r#"{"expiresAt":null,"expires_at":"2030-01-01T00:00:00Z"}"#, "expires_at", both),
            (create, r#"{"expires_at":null,"expiresAt":null}"#, "expiresAt", both),
            (create, r#"{"re\u0061lm":"a","realm":"b"}"#, "realm", "is given more than once"),
            (create, r#"{"owner":{"id":"kc_SECRET","id":"b"}}"#, "owner.id", "is given more than once"),
            (create, r#"{"owner":{"displayName":"a","display_name":"b"}}"#, "owner.display_name", "the same field"),
            (create, r#"{"metadata":{"kc_SECRET":"a","b":"c","kc_SECRET":"a"}}"#, "metadata", "one of its names"),
            (create, r#"{"none":1,"none":2}"#, "none", "is given more than once"),
            (create, r#"{"none":[[{"a":1,"a":2}]]}"#, "none", "one of its names"),
            (
                key,
                r#"{"suspensions":[{"by":"a"},{"by":"a","by":"b"}]}"#,
                "suspensions[1].by",
                "is given more than once",
            ),
        ];
        for (message, body, field, problem) in table {
            let found = fields(message, body);
            let [(at, said)] = found.as_slice() else { panic!("{body}: {found:?}") };
            assert!(at == field && said.contains(problem) && !said.contains("SECRET"), "{body}: {found:?}");
        }
    }

    #[test]
    fn what_is_given_once_in_each_place_is_none() {
        for body in [
            "{}",
            "[1, -1, 1.5, true, null, \"x\"]",
            r#"{"realm":"a","owner":{"id":"a"},"metadata":{"realm":"a","id":"b","expiresAt":"c","expires_at":"d"}}"#,
        ] {
            assert_eq!(fields("keyclasp.v1.CreateKeyRequest", body), [], "{body}");
        }
        assert_eq!(fields("keyclasp.v1.Key", r#"{"suspensions":[{"by":"a"},{"by":"b"}]}"#), []);
    }

    #[test]
    fn what_is_not_json_is_for_others_to_explain_and_nonsense_is_bounded() {
        let descriptor = Methods::load().unwrap().message("keyclasp.v1.CreateKeyRequest").unwrap();
        let deep = format!("{{\"realm\":{}", "[".repeat(100_000));
        for text in ["", "{", "{} x", r#"{"realm":"a","realm":"#, deep.as_str()] {
            assert!(duplicates(&descriptor, text.as_bytes()).is_err(), "{:.20}", text);
        }
        let many = vec![r#""realm":"a""#; 10_000].join(",");
        assert_eq!(fields("keyclasp.v1.CreateKeyRequest", &format!("{{{many}}}")).len(), MAX_VIOLATIONS);
    }

    proptest! {
        /// Names that are all given once: nothing is found, until any of them comes again.
        #[test]
        fn one_more_of_any_name_is_found(
            names in prop::collection::hash_set("[a-z]{1,8}", 1..20), again in any::<prop::sample::Index>(),
        ) {
            let mut members: Vec<_> = names.iter().map(|name| format!("\"{name}\":\"\"")).collect();
            let body = |members: &[String]| format!("{{\"metadata\":{{{}}}}}", members.join(","));
            prop_assert_eq!(fields("keyclasp.v1.CreateKeyRequest", &body(&members)), []);
            members.push(members[again.index(members.len())].clone());
            prop_assert_eq!(fields("keyclasp.v1.CreateKeyRequest", &body(&members)).len(), 1);
        }
    }
}
