//! The integration tests: one binary, real servers on free loopback ports, stopped by process id.

mod support;
mod vectors;
