//! The wire format of protobuf, read where it lies: fields of a message, one after the other. Knows no message.
//!
//! As strict as the generated decoders, and stricter in one point: groups, which proto3 does not have and no
//! proxy sends, are refused even where they could be passed over.

use super::request::Unreadable;
use crate::rpc::ascii;

/// The rest of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

/// The value of a field, as far as the wire tells.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
    /// A number, of any width. None of those that are read is one.
    Number,
}

impl<'a> Fields<'a> {
    /// Of a message.
    pub(super) const fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field, by its number. None: that was all.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Unreadable> {
        // Nearly all: a number below 16, and a text or message of less than 128 bytes.
        if let [key @ 8..=0x7f, length @ 0..=0x7f, rest @ ..] = self.rest
            && key & 7 == 2
        {
            self.rest = rest;
            return Ok(Some((u32::from(key >> 3), Value::Bytes(self.take(usize::from(*length))?))));
        }
        self.next_of_any_kind()
    }

    fn next_of_any_kind(&mut self) -> Result<Option<(u32, Value<'a>)>, Unreadable> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| Unreadable::Malformed)?;
        let number = key >> 3;
        if number == 0 {
            return Err(Unreadable::Malformed);
        }
        let value = match key & 7 {
            0 => {
                self.varint()?;
                Value::Number
            }
            1 => {
                self.take(8)?;
                Value::Number
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Unreadable::Malformed)?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Value::Number
            }
            _ => return Err(Unreadable::Malformed),
        };
        Ok(Some((number, value)))
    }

    /// Passes over all that is left, if it is well-formed.
    pub(super) fn pass(mut self) -> Result<(), Unreadable> {
        while self.next()?.is_some() {}
        Ok(())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Unreadable::Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Unreadable> {
        /// Bytes of the longest number of 64 bits.
        const LONGEST: usize = 10;
        if let [byte @ 0..=0x7f, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        let mut number = 0;
        for (at, byte) in self.rest.iter().enumerate().take(LONGEST) {
            // The last byte has room for one bit.
            if at + 1 == LONGEST && *byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                self.rest = self.rest.get(at + 1..).unwrap_or_default();
                return Ok(number);
            }
        }
        Err(Unreadable::Malformed)
    }
}

impl<'a> Value<'a> {
    /// What a text, bytes or a message is made of.
    pub(super) const fn bytes(self) -> Result<&'a [u8], Unreadable> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number => Err(Unreadable::Malformed),
        }
    }

    /// A text.
    pub(super) fn text(self) -> Result<&'a str, Unreadable> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Unreadable::NotUtf8)
    }

    /// The bytes of a text.
    pub(super) fn text_bytes(self) -> Result<&'a [u8], Unreadable> {
        let bytes = self.bytes()?;
        if ascii::is_printable(bytes) { Ok(bytes) } else { self.text().map(str::as_bytes) }
    }

    /// The fields of a message.
    pub(super) fn fields(self) -> Result<Fields<'a>, Unreadable> {
        self.bytes().map(Fields::of)
    }
}
