//! The wire: gRPC, JSON and HTTP; caller authentication; the one table of errors.
//!
//! A connection is dealt to a worker ([`serve`]); each request passes the [`gateway`] (limits,
//! authentication, deadline, metrics), is transcoded if it is JSON (`json.rs`), and reaches one of
//! the services ([`keys`], [`audit`], [`admin`]), which ask the use cases. Use cases live in
//! `service`; nothing here decides what a caller may do with a key.

pub mod admin;
mod ascii;
pub mod audit;
pub mod auth;
mod convert;
pub mod deadline;
pub mod envoy;
pub mod error;
pub mod forward_auth;
pub mod gateway;
mod json;
pub mod keys;
pub mod limits;
mod methods;
pub mod metrics;
pub mod oauth2;
pub mod ops;
pub mod proto;
pub mod proxy;
pub mod serve;
mod urlencoded;
mod written;
