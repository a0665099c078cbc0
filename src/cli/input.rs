//! What comes in as a secret: keys and tokens, from standard input or a file. Exactly one newline
//! at the end is dropped; a key's text is never trimmed.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::failure::Failure;
use super::output::Out;
use crate::key::ApiKey;

/// Much longer than any key; what is longer is not read on.
const LONGEST: u64 = 64 * 1024;

/// Where a key is read from.
#[derive(Debug, clap::Args)]
pub(super) struct KeyInput {
    /// The file to read the key from, instead of standard input.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl KeyInput {
    /// Reads the key.
    pub(super) fn read(&self, out: &mut Out) -> Result<ApiKey, Failure> {
        let text = match &self.key_file {
            Some(path) => from_file(path)?,
            None if io::stdin().is_terminal() => {
                out.prompt("Paste the key and press Enter: ");
                from_terminal()?
            }
            None => from(io::stdin().lock(), "standard input")?,
        };
        if text.is_empty() {
            return Err(Failure::usage("there is no key: pipe it into this command, or give --key-file FILE"));
        }
        Ok(ApiKey::new(text.to_string()))
    }
}

/// A secret in a file.
pub(super) fn from_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let file = File::open(path);
    let file = file.map_err(|error| Failure::refused(format!("{} cannot be read: {error}", path.display())))?;
    from(file, &path.display().to_string())
}

/// A line that a person types.
pub(super) fn from_terminal() -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    let read = io::stdin().lock().take(LONGEST).read_line(&mut line);
    read.map_err(|error| Failure::refused(format!("standard input cannot be read: {error}")))?;
    Ok(one_newline_less(line))
}

fn from(reader: impl Read, what: &str) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = reader.take(LONGEST + 1).read_to_string(&mut text);
    read.map_err(|error| Failure::refused(format!("{what} cannot be read: {error}")))?;
    if text.len() as u64 > LONGEST {
        return Err(Failure::refused(format!("{what} is longer than any key or token")));
    }
    Ok(one_newline_less(text))
}

fn one_newline_less(mut text: Zeroizing<String>) -> Zeroizing<String> {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_newline_is_dropped() {
        for (given, read) in
            [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a "), ("a\r", "a\r"), ("\n", "")]
        {
            assert_eq!(from(given.as_bytes(), "it").unwrap().as_str(), read, "{given:?}");
        }
    }

    #[test]
    fn what_is_no_text_or_too_long_is_refused() {
        assert!(from(&[0xff_u8][..], "it").is_err());
        assert!(from(io::repeat(b'a'), "it").unwrap_err().text().contains("longer"));
    }
}
