//! Fields of a protobuf message, read where they lie: no field is copied.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::codec::CodecError;

/// The fields of a message, in the order in which they were written. Ends after the first error.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    left: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) const fn of(message: &'a [u8]) -> Self {
        Self { left: message }
    }

    fn read(&mut self) -> Result<(u32, Value<'a>), CodecError> {
        let (tag, kind) = decode_key(&mut self.left)?;
        let value = match kind {
            WireType::Varint => Value::Number(decode_varint(&mut self.left)?),
            WireType::LengthDelimited => {
                let len = usize::try_from(decode_varint(&mut self.left)?).unwrap_or(usize::MAX);
                let short = || CodecError::Damaged("a field ends behind the message".to_owned());
                let (bytes, left) = self.left.split_at_checked(len).ok_or_else(short)?;
                self.left = left;
                Value::Bytes(bytes)
            }
            _ => {
                skip_field(kind, tag, &mut self.left, DecodeContext::default())?;
                Value::Other
            }
        };
        Ok((tag, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.left = &[];
        }
        Some(field)
    }
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A whole number.
    Number(u64),
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
    /// Of a kind that no message here has.
    Other,
}

impl<'a> Value<'a> {
    pub(super) fn number(self) -> Result<u64, CodecError> {
        if let Self::Number(number) = self { Ok(number) } else { Err(wrong("a number")) }
    }

    pub(super) fn small(self) -> Result<u32, CodecError> {
        u32::try_from(self.number()?).map_err(|_| wrong("a number below 2^32"))
    }

    pub(super) fn bytes(self) -> Result<&'a [u8], CodecError> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(wrong("bytes")) }
    }

    pub(super) fn text(self) -> Result<&'a str, CodecError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| wrong("text"))
    }
}

fn wrong(expected: &str) -> CodecError {
    CodecError::Damaged(format!("a field is not {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(u32, Value<'_>)>, CodecError> {
        Fields::of(bytes).collect()
    }

    #[test]
    fn fields_of_every_kind_are_read_or_passed_over() {
        let bytes = [
            [0x08, 0x96, 0x01].as_slice(),
            &[0x12, 2, b'h', b'i'],
            &[0x1d, 1, 2, 3, 4],
            &[0x21, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x2b, 0x08, 1, 0x2c],
            &[0x30, 7],
        ];
        let fields = [
            (1, Value::Number(150)),
            (2, Value::Bytes(b"hi")),
            (3, Value::Other),
            (4, Value::Other),
            (5, Value::Other),
            (6, Value::Number(7)),
        ];
        assert_eq!(read(&bytes.concat()), Ok(fields.to_vec()));
        assert_eq!(read(&[]), Ok(Vec::new()));
    }

    #[test]
    fn damage_is_refused_and_reading_ends() {
        for damaged in
            [&[0x08][..], &[0x12, 3, b'h', b'i'], &[0x1d, 1], &[0x2b, 0x08, 1], &[0x00, 1], &[0x0f], &[0xff; 11]]
        {
            assert!(read(damaged).is_err(), "{damaged:?}");
            assert!(Fields::of(damaged).count() < 3);
        }
    }

    #[test]
    fn a_value_is_only_what_it_was_written_as() {
        assert!(Value::Bytes(b"1").number().is_err());
        assert!(Value::Number(1).bytes().is_err() && Value::Other.text().is_err());
        assert!(Value::Bytes(&[0xff]).text().is_err());
        assert!(Value::Number(1 << 32).small().is_err());
        assert_eq!(Value::Number(u64::from(u32::MAX)).small(), Ok(u32::MAX));
    }
}
