//! The golden vectors of `tests/vectors`, which an independent implementation made.

use data_encoding::HEXLOWER;
use keyclasp::hash::{Hasher, Keyring, Pepper, Verdict};
use keyclasp::key::codec::{self, CodecError};
use keyclasp::key::{
    ApiKey, Argon2Profile, KeyId, Malformed, OwnerKind, OwnerRef, PepperId, Realm, SecretBytes, SecretHash,
};
use keyclasp::random::OsEntropy;
use serde_json::Value;

fn load(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    let vectors: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(!vectors.is_empty());
    vectors
}

fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
    vector[field].as_str().unwrap_or_else(|| panic!("{field} in {vector}"))
}

fn bytes<const N: usize>(vector: &Value, field: &str) -> [u8; N] {
    HEXLOWER.decode(text(vector, field).as_bytes()).unwrap().try_into().unwrap()
}

fn pepper(vector: &Value) -> Pepper {
    Pepper::new(PepperId::parse("p1").unwrap(), &SecretBytes::new(bytes(vector, "pepper_hex")))
}

fn keyring(vector: &Value) -> Keyring {
    Keyring::new(vec![pepper(vector)], &PepperId::parse("p1").unwrap()).unwrap()
}

#[test]
fn valid_keys_are_read_recognized_and_verified() {
    for vector in load("valid.json") {
        let name = text(&vector, "name");
        let key = ApiKey::new(text(&vector, "text").to_owned());
        let parsed = key.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(parsed.prefix.as_str(), text(&vector, "prefix"), "{name}");
        assert_eq!(parsed.id.as_bytes(), &bytes::<16>(&vector, "id_hex"), "{name}");
        assert_eq!(parsed.id.to_string(), text(&vector, "id"), "{name}");
        assert_eq!(parsed.random.expose(), &bytes::<32>(&vector, "random_hex"), "{name}");
        assert_eq!(parsed.tag, bytes::<8>(&vector, "tag_hex"), "{name}");
        assert_eq!(parsed.render().expose(), key.expose(), "{name}");
        assert_eq!(pepper(&vector).check(), &bytes::<32>(&vector, "pepper_check_hex"), "{name}");

        let kind = match text(&vector, "owner_kind") {
            "USER" => OwnerKind::User,
            "SERVICE_ACCOUNT" => OwnerKind::ServiceAccount,
            "CLIENT" => OwnerKind::Client,
            _ => OwnerKind::External,
        };
        let owner = OwnerRef::parse(kind, text(&vector, "owner_id")).unwrap();
        let bucket = owner.bucket(&Realm::parse(text(&vector, "realm")).unwrap());
        assert_eq!(u64::from(bucket), vector["bucket"].as_u64().unwrap(), "{name}");

        let hasher = Hasher::new(keyring(&vector), Argon2Profile::LIGHT, &OsEntropy).unwrap();
        assert!(hasher.keyring().is_genuine(&parsed), "{name}");
        for argon2 in vector["argon2"].as_array().unwrap() {
            let number = |field: &str| u32::try_from(argon2[field].as_u64().unwrap()).unwrap();
            let stored = SecretHash {
                digest: bytes(argon2, "digest_hex"),
                profile: Argon2Profile { m_kib: number("m_kib"), t: number("t"), p: number("p") },
                pepper: PepperId::parse("p1").unwrap(),
            };
            assert_eq!(hasher.verify(&key, &parsed, &stored), Ok(Verdict::Match), "{name} {argon2}");
            let other = SecretHash { digest: [0; 32], ..stored };
            assert_eq!(hasher.verify(&key, &parsed, &other), Ok(Verdict::Mismatch), "{name} {argon2}");
        }
    }
}

#[test]
fn damaged_texts_are_refused_each_for_its_reason() {
    for vector in load("malformed.json") {
        let name = text(&vector, "name");
        let error = ApiKey::new(text(&vector, "text").to_owned()).parse().expect_err(name);
        // A foreign character in the id may look like a missing separator and the other way round;
        // callers are told MALFORMED in each case.
        let expected: &[Malformed] = match text(&vector, "reason") {
            "length" => &[Malformed::Length],
            "checksum" => &[Malformed::Checksum],
            "overflow" => &[Malformed::Overflow],
            "prefix" => &[Malformed::Prefix],
            "separator" => &[Malformed::Separator, Malformed::Alphabet, Malformed::Prefix],
            "alphabet" => &[Malformed::Alphabet, Malformed::Prefix, Malformed::Separator],
            other => panic!("{name}: an unknown reason {other}"),
        };
        assert!(expected.contains(&error), "{name}: {error:?} where {expected:?} was expected");
    }
}

#[test]
fn forgeries_are_well_formed_and_not_genuine_and_cost_no_argon2() {
    for vector in load("forged.json") {
        let name = text(&vector, "name");
        let parsed = ApiKey::new(text(&vector, "text").to_owned()).parse().expect(name);
        let hasher = Hasher::new(keyring(&vector), Argon2Profile::LIGHT, &OsEntropy).unwrap();
        assert!(!hasher.keyring().is_genuine(&parsed), "{name}");
        assert_eq!(hasher.argon2_runs(), 0, "{name}");
    }
}

#[test]
fn ids_follow_the_base62_vectors() {
    for vector in load("base62.json").iter().filter(|vector| vector["width"] == 22) {
        let parsed = text(vector, "digits").parse::<KeyId>();
        match vector.get("bytes_hex") {
            Some(_) => assert_eq!(parsed.unwrap().as_bytes(), &bytes::<16>(vector, "bytes_hex")),
            None => assert!(parsed.is_err(), "{vector}"),
        }
    }
}

/// Records as earlier versions wrote them: they must be read for ever, and written the same by a
/// version that knows no newer format.
#[test]
fn stored_records_keep_their_meaning() {
    for vector in load("records.json") {
        let name = text(&vector, "name");
        let stored = HEXLOWER.decode(text(&vector, "stored_hex").as_bytes()).unwrap();
        let id: KeyId = text(&vector, "id").parse().unwrap();
        let header = codec::Header::read(&stored).expect(name);
        let record = codec::decode_record(id, &stored).expect(name);
        assert_eq!(codec::encode_record(&record, header.gone_at), stored, "{name}");
        assert_eq!(format!("{record:?}"), text(&vector, "reads_as"), "{name}");
    }
}

#[test]
fn a_record_of_an_unknown_format_is_refused() {
    let vector = load("records.json").remove(0);
    let mut stored = HEXLOWER.decode(text(&vector, "stored_hex").as_bytes()).unwrap();
    stored[0] = 2;
    let id: KeyId = text(&vector, "id").parse().unwrap();
    assert_eq!(codec::decode_record(id, &stored), Err(CodecError::UnknownFormat(2)));
    for len in 0..stored.len() {
        // Cut anywhere, it is an error or another record, never a panic.
        let _ = codec::decode_record(id, &stored[..len]);
    }
}
