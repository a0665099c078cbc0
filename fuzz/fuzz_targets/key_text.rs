//! Whatever the parser of key texts accepts is written back as the same text, and nothing makes
//! it panic.
//!
//! Chance does not get past the checksum, so each input is tried twice: as it is, and with its
//! last characters replaced by the checksum that belongs there. That checksum is computed here
//! and not by the code under test, so the two also check each other.

#![no_main]

use keyclasp::key::ApiKey;
use libfuzzer_sys::fuzz_target;

/// Base62 digits of the checksum at the end of a key.
const CRC_DIGITS: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fuzz_target!(|text: &str| {
    one_spelling(text);
    if let Some(repaired) = with_checksum(text) {
        one_spelling(&repaired);
    }
});

fn one_spelling(text: &str) {
    if let Ok(parsed) = ApiKey::new(text.to_owned()).parse() {
        assert_eq!(parsed.render().expose(), text);
    }
}

/// `text` with the checksum of the rest in place of its last characters.
fn with_checksum(text: &str) -> Option<String> {
    let rest = text.get(..text.len().checked_sub(CRC_DIGITS)?)?;
    let mut value = usize::try_from(crc32fast::hash(rest.as_bytes())).ok()?;
    let mut digits = [b'0'; CRC_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[value % ALPHABET.len()];
        value /= ALPHABET.len();
    }
    Some(format!("{rest}{}", String::from_utf8_lossy(&digits)))
}
