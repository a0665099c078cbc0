//! keyclasp beside a real Keycloak.

mod tokens;
