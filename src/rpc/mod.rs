//! The wire: gRPC, JSON and HTTP; caller authentication; the one table of errors.

pub mod proto;
