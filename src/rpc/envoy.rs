//! Envoy's ext_authz: `envoy.service.auth.v3.Authorization/Check`.

pub mod request;
mod wire;
