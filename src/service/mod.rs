//! Use cases: what keyclasp does, whoever asks and over whatever wire.

pub mod access;
mod error;

pub use error::{Error, ErrorKind, FieldViolation};
