//! What the bytes of a text are, eight at a time: nearly all texts of a proxy's question and of its answer are short and
//! plain, and to look at them byte by byte was a third of what reading a question took.

/// Whether there is nothing but spaces and visible ASCII.
pub(super) fn is_printable(text: &[u8]) -> bool {
    !any(text, |eight| eight | eight.wrapping_sub(each(b' ')) | eight.wrapping_add(each(1)))
}

/// Whether there is nothing but visible ASCII.
pub(super) fn is_visible(text: &[u8]) -> bool {
    !any(text, |eight| eight | eight.wrapping_sub(each(b'!')) | eight.wrapping_add(each(1)))
}

/// Whether there is nothing but visible ASCII without capital letters.
pub(super) fn is_lower_case(text: &[u8]) -> bool {
    !any(text, |eight| {
        let capital = eight.wrapping_add(each(0x80 - b'A')) & !eight.wrapping_add(each(0x80 - b'Z' - 1));
        eight | eight.wrapping_sub(each(b'!')) | eight.wrapping_add(each(1)) | capital
    })
}

/// Eight times this byte.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Whether `odd` sets the highest bit of any byte. What it makes of one byte must not reach the next one, unless
/// it has set that bit.
fn any(text: &[u8], odd: impl Fn(u64) -> u64) -> bool {
    let (eights, _) = text.as_chunks::<8>();
    let mut found = 0;
    for eight in eights {
        found |= odd(u64::from_ne_bytes(*eight));
    }
    // What is left is looked at together with what was before it, or, of a short text, twice in part.
    if let Some(last) = text.last_chunk::<8>() {
        found |= odd(u64::from_ne_bytes(*last));
    } else if let (Some([a, b, c, d]), Some([e, f, g, h])) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        found |= odd(u64::from_ne_bytes([*a, *b, *c, *d, *e, *f, *g, *h]));
    } else {
        for byte in text {
            found |= odd(each(*byte));
        }
    }
    found & each(0x80) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it means, byte by byte.
    fn agree(text: &[u8]) {
        assert_eq!(is_printable(text), text.iter().all(|byte| (b' '..=b'~').contains(byte)), "{text:?}");
        assert_eq!(is_visible(text), text.iter().all(u8::is_ascii_graphic), "{text:?}");
        let lower = |byte: &u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
        assert_eq!(is_lower_case(text), text.iter().all(lower), "{text:?}");
    }

    #[test]
    fn each_byte_counts_wherever_it_stands() {
        for length in 0..20 {
            agree(&vec![b'a'; length]);
            for place in 0..length {
                for byte in 0..=255 {
                    // Beside the smallest and largest of those that are as they should be.
                    for other in [b'!', b'a', b'~'] {
                        let mut text = vec![other; length];
                        text[place] = byte;
                        agree(&text);
                    }
                }
            }
        }
    }

    #[test]
    fn two_bytes_do_not_hide_each_other() {
        for first in 0..=255 {
            for second in 0..=255 {
                agree(&[first, second]);
                agree(&[b'a', first, second, b'a', b'a', b'a', b'a', b'a']);
            }
        }
    }
}
