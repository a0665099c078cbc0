//! The wire: gRPC, JSON and HTTP; caller authentication; the one table of errors.
//!
//! Use cases live in `service`; nothing here decides what a caller may do with a key.

pub mod admin;
pub mod audit;
pub mod auth;
mod convert;
pub mod error;
pub mod gateway;
pub mod keys;
pub mod proto;
