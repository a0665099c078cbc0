//! The integration tests: one binary, real servers on free loopback ports, stopped by process id.

#![cfg(test)]

mod access;
mod cli_retry;
mod cmd;
mod codec;
mod deadlines;
mod envoy;
mod every_method;
mod ext_authz;
mod fence;
mod first_start;
mod forward_auth;
mod keycloak;
mod keyring;
mod layers;
mod linear;
mod memory;
mod model;
mod oauth;
mod own;
mod process;
mod readme;
mod requests;
mod rpc;
mod secrets;
mod set_lease;
mod shards;
mod status;
mod stopping;
mod store_embedded;
mod store_embedded_kill;
mod store_guarded;
mod store_redis;
mod support;
mod vectors;
