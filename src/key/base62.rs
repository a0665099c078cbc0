//! Base62 with fixed width: big-endian, digits `0-9A-Za-z`, one value has one spelling.
//!
//! A number of `N` bytes is written with just enough digits for the largest such number. Reading
//! refuses a value that does not fit into `N` bytes, so no two texts mean the same bytes.

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Value of each byte as a digit; 255 for bytes that are none.
const VALUES: [u8; 256] = values();
/// Digits handled at once: 62^10 is the largest power of 62 below 2^60.
const GROUP: usize = 10;
/// Digits written at once: 62^5 is the largest power of 62 below 2^32.
const WRITTEN: usize = 5;
const SCALE: u64 = 62_u64.pow(5);

/// Writes the big-endian number `bytes` with exactly `digits.len()` digits, whose number must be
/// enough for it.
pub(super) fn encode(bytes: &[u8], digits: &mut [u8]) {
    // Limbs of 32 bits, most significant first, divided once per group of digits.
    let mut limbs = [0_u32; 16];
    let used = bytes.len().div_ceil(4);
    debug_assert!(used <= limbs.len(), "numbers are at most 64 bytes");
    for (limb, chunk) in limbs.iter_mut().take(used).rev().zip(bytes.rchunks(4)) {
        *limb = chunk.iter().fold(0, |value, &byte| (value << 8) | u32::from(byte));
    }
    for group in digits.rchunks_mut(WRITTEN) {
        let mut remainder = 0_u64;
        for limb in limbs.iter_mut().take(used) {
            let value = (remainder << 32) | u64::from(*limb);
            *limb = u32::try_from(value / SCALE).unwrap_or(u32::MAX);
            remainder = value % SCALE;
        }
        for digit in group.iter_mut().rev() {
            *digit =
                usize::try_from(remainder % 62).ok().and_then(|value| ALPHABET.get(value)).copied().unwrap_or(b'0');
            remainder /= 62;
        }
    }
    debug_assert!(limbs.iter().all(|&limb| limb == 0), "too few digits for the number");
}

/// Why a text is not a number of the wanted size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DecodeError {
    /// A character is not a base62 digit.
    Alphabet,
    /// The number does not fit.
    Overflow,
}

/// Reads `digits` as a big-endian number of `N` bytes. `N` is a multiple of 4.
pub(super) fn decode<const N: usize>(digits: &[u8]) -> Result<[u8; N], DecodeError> {
    let mut limbs = [0_u32; 16];
    let used = N / 4;
    debug_assert!(N.is_multiple_of(4) && used <= limbs.len(), "numbers are whole limbs");
    let mut overflow = false;
    for group in digits.chunks(GROUP) {
        let (mut value, mut scale) = (0_u64, 1_u64);
        for &digit in group {
            let digit = value_of(digit).ok_or(DecodeError::Alphabet)?;
            value = value * 62 + u64::from(digit);
            scale *= 62;
        }
        // limbs = limbs * scale + value
        let mut carry = u128::from(value);
        for limb in limbs.iter_mut().take(used).rev() {
            let sum = u128::from(*limb) * u128::from(scale) + carry;
            #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are what this limb holds")]
            let low = sum as u32;
            *limb = low;
            carry = sum >> 32;
        }
        // Goes on to the last character, so that a foreign character is named as such.
        overflow |= carry != 0;
    }
    if overflow {
        return Err(DecodeError::Overflow);
    }
    let mut bytes = [0; N];
    for (chunk, limb) in bytes.chunks_exact_mut(4).zip(limbs) {
        chunk.copy_from_slice(&limb.to_be_bytes());
    }
    Ok(bytes)
}

fn value_of(digit: u8) -> Option<u8> {
    VALUES.get(usize::from(digit)).copied().filter(|&value| value < 62)
}

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time, where a bad index does not build")]
#[expect(clippy::cast_possible_truncation, reason = "the index is below 62")]
const fn values() -> [u8; 256] {
    let mut values = [255; 256];
    let mut index = 0;
    while index < ALPHABET.len() {
        values[ALPHABET[index] as usize] = index as u8;
        index += 1;
    }
    values
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn extremes() {
        let mut digits = [0; 22];
        encode(&[0; 16], &mut digits);
        assert_eq!(&digits, b"0000000000000000000000");
        encode(&[0xff; 16], &mut digits);
        assert_eq!(&digits, b"7n42DGM5Tflk9n8mt7Fhc7");
        assert_eq!(decode::<16>(&digits), Ok([0xff; 16]));
        assert_eq!(decode::<16>(b"7n42DGM5Tflk9n8mt7Fhc8"), Err(DecodeError::Overflow));
        assert_eq!(decode::<16>(b"zzzzzzzzzzzzzzzzzzzzzz"), Err(DecodeError::Overflow));
        assert_eq!(decode::<16>(b"zzzzzzzzzzzzzzzzzzzzz-"), Err(DecodeError::Alphabet));
        assert_eq!(decode::<4>(b"zzzzzz"), Err(DecodeError::Overflow));
    }

    proptest! {
        #[test]
        fn forty_bytes_round_trip(bytes: [u8; 40]) {
            let mut digits = [0; 54];
            encode(&bytes, &mut digits);
            prop_assert_eq!(decode::<40>(&digits), Ok(bytes));
        }

        #[test]
        fn one_value_has_one_spelling(digits in "[0-9A-Za-z]{22}") {
            if let Ok(bytes) = decode::<16>(digits.as_bytes()) {
                let mut again = [0; 22];
                encode(&bytes, &mut again);
                prop_assert_eq!(digits.as_bytes(), &again);
            }
        }

        #[test]
        fn order_is_kept(a: [u8; 16], b: [u8; 16]) {
            let (mut x, mut y) = ([0; 22], [0; 22]);
            encode(&a, &mut x);
            encode(&b, &mut y);
            prop_assert_eq!(a.cmp(&b), x.cmp(&y));
        }
    }
}
