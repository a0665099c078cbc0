//! The integration tests: one binary, real servers on free loopback ports, stopped by process id.

#![cfg(test)]

mod store_embedded;
mod store_guarded;
mod support;
mod vectors;
