//! `application/x-www-form-urlencoded`, as OAuth uses it (RFC 6749, appendix B): the parameters of a
//! request, and a client's name and token.
//!
//! A value may be a key or a token: it lives in memory that is wiped, and no part of it is in an error.

use zeroize::Zeroizing;

/// Why a form was refused. Says which parameter, and nothing of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// It is there more than once.
    #[error("{0} is given more than once; send it once")]
    Repeated(&'static str),
    /// Its value is not one that a form can have.
    #[error("{0} is not percent-encoded UTF-8; send it as application/x-www-form-urlencoded")]
    Undecodable(&'static str),
}

/// The parameters `names` of `form`, in this order. One without a value is none; others than these
/// are ignored (RFC 6749, section 3.1).
///
/// # Errors
/// When one of them is there more than once, with or without a value, or cannot be decoded.
pub(super) fn parameters<const N: usize>(
    form: &[u8],
    names: [&'static str; N],
) -> Result<[Option<Zeroizing<String>>; N], Fault> {
    let mut found = [const { None }; N];
    for pair in form.split(|byte| *byte == b'&') {
        let (name, value) = pair.iter().position(|byte| *byte == b'=').map_or((pair, &[][..]), |at| {
            let (name, value) = pair.split_at(at);
            (name, value.get(1..).unwrap_or_default())
        });
        // A name that cannot be decoded is none of these.
        let Some(name) = decode(name) else { continue };
        for (known, slot) in names.iter().zip(&mut found) {
            if *name != **known {
                continue;
            }
            let value = decode(value).ok_or(Fault::Undecodable(known))?;
            if slot.replace(value).is_some() {
                return Err(Fault::Repeated(known));
            }
        }
    }
    Ok(found.map(|value| value.filter(|value| !value.is_empty())))
}

/// Text as a form or a client's credentials spell it: `+` is a space, `%` begins two hexadecimal
/// digits. None: that is not what it is, or it is not UTF-8.
pub(super) fn decode(text: &[u8]) -> Option<Zeroizing<String>> {
    // As large as it can become: a vector that grew would leave copies behind.
    let mut decoded = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (digit(*rest.next()?)?, digit(*rest.next()?)?);
                high << 4 | low
            }
            other => *other,
        });
    }
    // Checked before it is taken out: what is refused is wiped too.
    std::str::from_utf8(&decoded).ok()?;
    String::from_utf8(std::mem::take(&mut *decoded)).ok().map(Zeroizing::new)
}

fn digit(character: u8) -> Option<u8> {
    char::from(character).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As plain texts.
    fn read<const N: usize>(form: &[u8], names: [&'static str; N]) -> Result<[Option<String>; N], Fault> {
        parameters(form, names).map(|found| found.map(|value| value.map(|value| (*value).clone())))
    }

    fn one(form: &str) -> Result<Option<String>, Fault> {
        read(form.as_bytes(), ["token"]).map(|[token]| token)
    }

    #[test]
    fn a_parameter_is_found_wherever_it_stands_and_however_it_is_spelled() {
        for form in [
            "token=a%20b%2B",
            "token=a+b%2b",
            "x=1&token=a+b%2B",
            "&&token=a+b%2B&",
            "%74oken=a+b%2B",
            "x=%zz&token=a+b%2B&%zz=1&y=%ff",
            // Of a parameter that nobody knows there may be any number.
            "x=1&x=2&token=a+b%2B",
            "Token=no&token=a+b%2B&token2=no",
        ] {
            assert_eq!(one(form), Ok(Some("a b+".to_owned())), "{form}");
        }
        assert_eq!(one("token=a=b"), Ok(Some("a=b".to_owned())));
        assert_eq!(one("token=%C3%A9é"), Ok(Some("éé".to_owned())));
        let both = read(b"b=2&a=1", ["a", "b"]);
        assert_eq!(both, Ok([Some("1".to_owned()), Some("2".to_owned())]));
    }

    #[test]
    fn one_without_a_value_is_none() {
        for form in ["", "&", "x=1", "token", "token=", "=token", "tok=en", "TOKEN=x", "token%3Dx"] {
            assert_eq!(one(form), Ok(None), "{form}");
        }
    }

    #[test]
    fn one_that_comes_twice_is_refused_also_without_a_value() {
        for form in ["token=a&token=a", "token=a&token=b", "token&token=a", "token=a&x=1&%74oken=", "token&token"] {
            assert_eq!(one(form), Err(Fault::Repeated("token")), "{form}");
        }
    }

    #[test]
    fn a_value_that_is_no_text_is_refused() {
        for form in ["token=%", "token=%4", "token=%4g", "token=%+4", "token=%ff", "token=%C3", "token=a%00%80"] {
            assert_eq!(one(form), Err(Fault::Undecodable("token")), "{form}");
        }
        assert_eq!(read(b"token=\xff", ["token"]), Err(Fault::Undecodable("token")));
    }

    /// As RFC 6749 has it, appendix B.
    fn encode(text: &str) -> String {
        let byte = |byte: u8| match byte {
            b' ' => "+".to_owned(),
            byte if byte.is_ascii_alphanumeric() || b"*-._".contains(&byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        text.bytes().map(byte).collect()
    }

    #[test]
    fn the_example_of_the_standard() {
        assert_eq!(encode(" %&+£€"), "+%25%26%2B%C2%A3%E2%82%AC");
        assert_eq!(decode(b"+%25%26%2B%C2%A3%E2%82%AC").unwrap().as_str(), " %&+£€");
    }

    proptest! {
        #[test]
        fn what_a_client_wrote_is_what_is_read(
            pairs in proptest::collection::vec(("[a-d ]{0,2}", any::<String>()), 0..8),
        ) {
            let form: Vec<_> =
                pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
            let named = |wanted: &str| pairs.iter().filter(|(name, _)| name == wanted).collect::<Vec<_>>();
            let expected = ["a", "b"].map(|name| match named(name)[..] {
                [] => Ok(None),
                [(_, value)] => Ok(Some(value.clone()).filter(|value| !value.is_empty())),
                _ => Err(()),
            });
            match read(form.join("&").as_bytes(), ["a", "b"]) {
                Ok(found) => prop_assert_eq!(found.map(Ok), expected),
                Err(fault) => {
                    prop_assert!(matches!(fault, Fault::Repeated("a" | "b")));
                    prop_assert!(expected.contains(&Err(())));
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(form in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&form, ["token", ""]);
        }
    }
}
