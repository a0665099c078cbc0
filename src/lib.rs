//! keyclasp: API keys beside Keycloak. The module map.
//!
//! Dependencies point one way, and a test (`tests/it/layers.rs`) holds it:
//! `main → cli → app → {rpc, config, telemetry}`, `rpc → service → {fence, keycloak, hash} → store → key → clock`.
//! `docs/ARCHITECTURE.md` says which rule lives where.

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod fence;
pub mod hash;
pub mod key;
pub mod keycloak;
pub mod random;
pub mod rpc;
pub mod service;
pub mod store;
pub mod telemetry;
