//! RESP3 as a Redis speaks it: commands into bytes, bytes into replies. Knows no connection and no
//! meaning.
//!
//! A reply is read as it arrives: what was read once is not read again, and what is not there yet is
//! asked for by returning without a reply. Who answers may be anybody, so depth, length and number of
//! values of a reply are bounded.

use redis::{ServerError, Value, VerbatimFormat};

/// Bytes of a reply. The longest that keyclasp asks for is a page of 1000 records.
const MOST_BYTES: usize = 64 << 20;
/// Values in a reply, on all its levels.
const MOST_VALUES: usize = 1 << 20;
/// Levels of a reply.
const DEEPEST: usize = 16;
/// Bytes of a line: of a header, a simple string, an error.
const LONGEST_LINE: usize = 64 << 10;
/// Places made for the values of an array before they have come.
const PLACES: usize = 64;

/// Appends a command.
pub(super) fn write_command<'a>(out: &mut Vec<u8>, arguments: impl Iterator<Item = &'a [u8]> + Clone) {
    write_header(out, b'*', arguments.clone().count());
    for argument in arguments {
        write_argument(out, argument);
    }
}

/// Appends the beginning of a command: of how many arguments it is.
pub(super) fn write_count(out: &mut Vec<u8>, arguments: usize) {
    write_header(out, b'*', arguments);
}

/// Appends an argument.
pub(super) fn write_argument(out: &mut Vec<u8>, argument: &[u8]) {
    write_header(out, b'$', argument.len());
    out.extend_from_slice(argument);
    out.extend_from_slice(b"\r\n");
}

fn write_header(out: &mut Vec<u8>, kind: u8, number: usize) {
    // The kind, the digits of the largest number, and the end of a line; from the end on.
    let mut line = [0; 1 + 20 + 2];
    let mut from = line.len();
    let mut put = |byte| {
        from -= 1;
        if let Some(place) = line.get_mut(from) {
            *place = byte;
        }
    };
    put(b'\n');
    put(b'\r');
    let mut left = number;
    loop {
        // A digit.
        put(b'0' + u8::try_from(left % 10).unwrap_or_default());
        left /= 10;
        if left == 0 {
            break;
        }
    }
    put(kind);
    out.extend_from_slice(line.get(from..).unwrap_or_default());
}

/// What arrived.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    /// The reply to a command. Errors are values too.
    Reply(Value),
    /// A reply with an error somewhere inside of an array.
    Flawed(Value),
    /// What nobody asked for.
    Push,
}

/// What arrived is no RESP3, or beyond the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// Reads replies.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// The arrays that are not complete, the outermost first.
    open: Vec<Aggregate>,
    /// Bytes and values of the reply that is being read.
    bytes: usize,
    values: usize,
    push: bool,
    flawed: bool,
}

impl Parser {
    /// Reads on. Answers how many bytes were read, and a reply if one is complete; without one, call
    /// again when there is more behind the bytes that were not read.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(usize, Option<Frame>), Malformed> {
        let mut rest = bytes;
        while let Some((element, behind)) = self.element(rest)? {
            self.bytes += rest.len() - behind.len();
            self.values += 1;
            if self.bytes > MOST_BYTES || self.values > MOST_VALUES {
                return Err(Malformed("a reply that is too long"));
            }
            rest = behind;
            let value = match element {
                Element::Value(value) => value,
                Element::Open(kind, 0) => kind.close(Vec::new()),
                Element::Open(kind, missing) => {
                    if self.open.len() >= DEEPEST {
                        return Err(Malformed("a reply of too many levels"));
                    }
                    self.open.push(Aggregate { kind, missing, values: Vec::with_capacity(missing.min(PLACES)) });
                    continue;
                }
            };
            if let Some(frame) = self.add(value) {
                return Ok((bytes.len() - rest.len(), Some(frame)));
            }
        }
        Ok((bytes.len() - rest.len(), None))
    }

    /// Puts a value where it belongs; answers the reply if that completes it.
    fn add(&mut self, mut value: Value) -> Option<Frame> {
        while let Some(aggregate) = self.open.last_mut() {
            self.flawed |= matches!(value, Value::ServerError(_));
            aggregate.values.push(value);
            aggregate.missing -= 1;
            if aggregate.missing > 0 {
                return None;
            }
            let Aggregate { kind, values, .. } = self.open.pop()?;
            value = kind.close(values);
        }
        let Self { push, flawed, .. } = std::mem::take(self);
        Some(match (push, flawed) {
            (true, _) => Frame::Push,
            (false, true) => Frame::Flawed(value),
            (false, false) => Frame::Reply(value),
        })
    }

    /// The first element of `bytes` and what is behind it; none if it is not complete.
    fn element<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<(Element, &'a [u8])>, Malformed> {
        let Some((kind, after)) = bytes.split_first() else { return Ok(None) };
        let Some((line, behind)) = line(after)? else { return Ok(None) };
        let value = match kind {
            b'$' | b'!' | b'=' => {
                let Some(length) = length(line)? else { return Ok(Some((Element::Value(Value::Nil), behind))) };
                if length > MOST_BYTES - self.bytes.min(MOST_BYTES) {
                    return Err(Malformed("a reply that is too long"));
                }
                let Some((string, behind)) = behind.split_at_checked(length) else { return Ok(None) };
                let Some((end, behind)) = behind.split_first_chunk::<2>() else { return Ok(None) };
                if end != b"\r\n" {
                    return Err(Malformed("a string that does not end where it should"));
                }
                let value = match kind {
                    b'$' => Value::BulkString(string.to_vec()),
                    b'!' => Value::ServerError(error(string)?),
                    _ => verbatim(string)?,
                };
                return Ok(Some((Element::Value(value), behind)));
            }
            b'*' | b'~' | b'%' | b'>' => {
                let length = match length(line)? {
                    Some(length) => length,
                    None if *kind != b'>' => return Ok(Some((Element::Value(Value::Nil), behind))),
                    None => return Err(Malformed("a length below zero")),
                };
                if length > MOST_VALUES {
                    return Err(Malformed("a reply that is too long"));
                }
                let element = match kind {
                    b'*' => Element::Open(Kind::Array, length),
                    b'~' => Element::Open(Kind::Set, length),
                    b'%' => Element::Open(Kind::Map, length * 2),
                    _ if !self.open.is_empty() => return Err(Malformed("a push inside of a reply")),
                    _ => {
                        self.push = true;
                        Element::Open(Kind::Array, length)
                    }
                };
                return Ok(Some((element, behind)));
            }
            b'+' if line == b"OK" => Value::Okay,
            b'+' => Value::SimpleString(String::from_utf8_lossy(line).into_owned()),
            b'-' => Value::ServerError(error(line)?),
            b':' => Value::Int(number(line)?),
            b'_' if line.is_empty() => Value::Nil,
            b'#' if line == b"t" => Value::Boolean(true),
            b'#' if line == b"f" => Value::Boolean(false),
            b',' => Value::Double(text(line)?.parse().map_err(|_| Malformed("a number that is none"))?),
            // Kept as its digits: keyclasp asks for none.
            b'(' => Value::BulkString(line.to_vec()),
            _ => return Err(Malformed("what is no reply of a Redis")),
        };
        Ok(Some((Element::Value(value), behind)))
    }
}

enum Element {
    Value(Value),
    /// So many values follow.
    Open(Kind, usize),
}

#[derive(Debug)]
struct Aggregate {
    kind: Kind,
    missing: usize,
    values: Vec<Value>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Array,
    Set,
    Map,
}

impl Kind {
    fn close(self, values: Vec<Value>) -> Value {
        match self {
            Self::Array => Value::Array(values),
            Self::Set => Value::Set(values),
            Self::Map => {
                let mut values = values.into_iter();
                let mut pairs = Vec::with_capacity(values.len() / 2);
                while let (Some(name), Some(value)) = (values.next(), values.next()) {
                    pairs.push((name, value));
                }
                Value::Map(pairs)
            }
        }
    }
}

/// A line without its end, and what is behind it.
type Line<'a> = (&'a [u8], &'a [u8]);

/// The first line; none if its end is not there.
fn line(bytes: &[u8]) -> Result<Option<Line<'_>>, Malformed> {
    let Some(end) = bytes.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n') else {
        return if bytes.len() < LONGEST_LINE { Ok(None) } else { Err(Malformed("a line that is too long")) };
    };
    let (line, behind) = bytes.split_at(end);
    match (line.split_last(), behind.split_first()) {
        (Some((b'\r', line)), Some((_, behind))) => Ok(Some((line, behind))),
        _ => Err(Malformed("a line that does not end as it should")),
    }
}

/// How many follow; none if there is no value (RESP2's way to say it).
fn length(line: &[u8]) -> Result<Option<usize>, Malformed> {
    match number(line)? {
        -1 => Ok(None),
        length => usize::try_from(length).map(Some).map_err(|_| Malformed("a length below zero")),
    }
}

fn number(line: &[u8]) -> Result<i64, Malformed> {
    // Nearly every one is a length of few digits.
    if (1..=9).contains(&line.len()) && line.iter().all(u8::is_ascii_digit) {
        return Ok(line.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')));
    }
    text(line)?.parse().map_err(|_| Malformed("a number that is none"))
}

fn text(line: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(line).map_err(|_| Malformed("text that is none"))
}

/// `txt:…`, as INFO answers.
fn verbatim(string: &[u8]) -> Result<Value, Malformed> {
    match string.split_first_chunk::<4>() {
        Some((b"txt:", text)) => {
            Ok(Value::VerbatimString { format: VerbatimFormat::Text, text: String::from_utf8_lossy(text).into_owned() })
        }
        Some(([_, _, _, b':'], text)) => Ok(Value::BulkString(text.to_vec())),
        _ => Err(Malformed("a text without a format")),
    }
}

/// An error, as the client library reads it.
fn error(line: &[u8]) -> Result<ServerError, Malformed> {
    let mut whole = vec![b'-'];
    let text = String::from_utf8_lossy(line);
    whole.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    whole.extend_from_slice(b"\r\n");
    match redis::parse_redis_value(&whole) {
        Ok(Value::ServerError(error)) => Ok(error),
        _ => Err(Malformed("an error that cannot be read")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads all of `bytes`, given in the pieces that end at `cuts`.
    fn read_in_pieces(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Frame>, Malformed> {
        let (mut parser, mut frames, mut from) = (Parser::default(), Vec::new(), 0);
        for to in cuts.iter().copied().chain([bytes.len()]) {
            loop {
                let (read, frame) = parser.read(&bytes[from..to.max(from)])?;
                from += read;
                match frame {
                    Some(frame) => frames.push(frame),
                    None => break,
                }
            }
        }
        Ok(frames)
    }

    fn read(bytes: &[u8]) -> Result<Vec<Frame>, Malformed> {
        read_in_pieces(bytes, &[])
    }

    fn reply(bytes: &[u8]) -> Value {
        match read(bytes).unwrap().pop().unwrap() {
            Frame::Reply(value) | Frame::Flawed(value) => value,
            Frame::Push => panic!("a push"),
        }
    }

    /// Bytes of a value, of every kind that the client library reads as we do.
    fn encoded() -> impl Strategy<Value = Vec<u8>> {
        let string = |kind: &'static str, bytes: Vec<u8>| {
            [format!("{kind}{}\r\n", bytes.len()).into_bytes(), bytes, b"\r\n".to_vec()].concat()
        };
        let leaf = prop_oneof![
            Just(b"_\r\n".to_vec()),
            Just(b"$-1\r\n".to_vec()),
            Just(b"+OK\r\n".to_vec()),
            Just(b"#t\r\n".to_vec()),
            any::<i64>().prop_map(|number| format!(":{number}\r\n").into_bytes()),
            "[ -~]{0,20}".prop_map(|text| format!("+{text}\r\n").into_bytes()),
            "[A-Z]{1,8} [ -~]{0,20}".prop_map(|text| format!("-{text}\r\n").into_bytes()),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(move |bytes| string("$", bytes)),
            "[ -~\r\n]{0,20}".prop_map(move |text| string("=", format!("txt:{text}").into_bytes())),
        ];
        leaf.prop_recursive(4, 60, 6, |inner| {
            (prop::collection::vec(inner, 0..6), 0_usize..3).prop_map(|(mut values, kind)| {
                if kind == 2 && values.len() % 2 == 1 {
                    values.pop();
                }
                let (mark, number) = [('*', values.len()), ('~', values.len()), ('%', values.len() / 2)][kind];
                [format!("{mark}{number}\r\n").into_bytes(), values.concat()].concat()
            })
        })
    }

    proptest! {
        #[test]
        fn replies_are_read_as_the_client_library_reads_them_wherever_they_are_cut(
            replies in prop::collection::vec(encoded(), 1..5),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes = replies.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let values: Vec<Value> = read_in_pieces(&bytes, &cuts)
                .unwrap()
                .into_iter()
                .map(|frame| match frame {
                    Frame::Reply(value) => {
                        assert!(matches!(value, Value::ServerError(_)) || value.clone().extract_error().is_ok());
                        value
                    }
                    Frame::Flawed(value) => {
                        assert!(value.clone().extract_error().is_err());
                        value
                    }
                    Frame::Push => panic!("a push"),
                })
                .collect();
            let expected: Vec<Value> = replies.iter().map(|one| redis::parse_redis_value(one).unwrap()).collect();
            prop_assert_eq!(values, expected);
        }

        #[test]
        fn what_is_cut_short_is_waited_for(bytes in encoded(), cut in any::<prop::sample::Index>()) {
            let part = &bytes[..cut.index(bytes.len())];
            prop_assert_eq!(read(part), Ok(Vec::new()));
        }

        #[test]
        fn noise_is_read_or_refused_the_same_however_it_is_cut(
            bytes in prop::collection::vec(prop::sample::select(b"*$+-:_#,(!=%~>|?019\r\n A".to_vec()), 0..60),
            cut in any::<prop::sample::Index>(),
        ) {
            let cut = cut.index(bytes.len() + 1);
            prop_assert_eq!(read(&bytes), read_in_pieces(&bytes, &[cut]));
        }

        #[test]
        fn a_command_is_an_array_of_its_arguments(arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..14)) {
            let mut out = Vec::new();
            write_command(&mut out, arguments.iter().map(Vec::as_slice));
            let mut command = redis::Cmd::new();
            for argument in &arguments {
                command.arg(argument);
            }
            prop_assert_eq!(out, command.get_packed_command());
        }
    }

    #[test]
    fn every_kind_is_read() {
        let bytes = b"*7\r\n,1.5\r\n#f\r\n(123\r\n=7\r\nmkd:abc\r\n!9\r\nERR no\r\nt\r\n*-1\r\n%1\r\n+a\r\n:1\r\n";
        let Value::Array(values) = reply(bytes) else { panic!("no array") };
        assert_eq!(values[0], Value::Double(1.5));
        assert_eq!(values[1], Value::Boolean(false));
        assert_eq!(values[2], Value::BulkString(b"123".to_vec()));
        assert_eq!(values[3], Value::BulkString(b"abc".to_vec()));
        assert!(matches!(&values[4], Value::ServerError(error) if error.details() == Some("no  t")), "{:?}", values[4]);
        assert_eq!(values[5], Value::Nil);
        assert_eq!(values[6], Value::Map(vec![(Value::SimpleString("a".to_owned()), Value::Int(1))]));
    }

    #[test]
    fn a_push_is_no_reply() {
        let frames = read(b">2\r\n+invalidate\r\n*1\r\n+k\r\n:1\r\n>0\r\n:2\r\n").unwrap();
        assert_eq!(frames, [Frame::Push, Frame::Reply(Value::Int(1)), Frame::Push, Frame::Reply(Value::Int(2))]);
    }

    #[test]
    fn what_is_hostile_is_refused_before_it_costs_memory() {
        let deep = [b"*1\r\n".repeat(DEEPEST + 1), b":1\r\n".to_vec()].concat();
        let long_line = [b"+".to_vec(), vec![b'a'; LONGEST_LINE]].concat();
        let many = [b"*1000000\r\n".to_vec(), b"*1\r\n_\r\n".repeat(MOST_VALUES / 2 + 1)].concat();
        for bytes in [
            &b"$9223372036854775807\r\n"[..],
            b"$67108865\r\n",
            b"*1\r\n$67108864\r\n",
            b"*9223372036854775807\r\n",
            b"%9223372036854775807\r\n",
            b"*1048577\r\n",
            b"$-2\r\n",
            b">-1\r\n",
            b"*-2\r\n",
            b"$?\r\n",
            b"*?\r\n",
            b"$1\r\nab\r\n",
            b"+a\n",
            b"*1\r\n>1\r\n",
            b"_a\r\n",
            b"#x\r\n",
            b":1x\r\n",
            b"=3\r\nabc\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            &deep,
            &long_line,
            &many,
        ] {
            assert!(read(bytes).is_err(), "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
        }
        // Announced, and within the bounds: nothing is set aside for what has not come.
        let (mut parser, announced) = (Parser::default(), b"*1048576\r\n".repeat(DEEPEST));
        assert_eq!(parser.read(&announced), Ok((announced.len(), None)));
        assert!(parser.open.iter().all(|aggregate| aggregate.values.capacity() <= 2 * PLACES));
    }
}
