//! The generated API, and `Debug` for the messages that carry a secret.

use std::fmt;

/// `keyclasp.v1`: documented in `proto/keyclasp/v1`.
pub mod v1 {
    #![expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/keyclasp.v1.rs"));
}

/// Envoy's messages, as far as keyclasp reads or writes them: documented in `proto/envoy`. The modules are
/// nested as their packages are, since generated code names one from the other.
pub mod envoy {
    /// `envoy.config`.
    pub mod config {
        /// `envoy.config.core`.
        pub mod core {
            /// `envoy.config.core.v3`.
            pub mod v3 {
                include!(concat!(env!("OUT_DIR"), "/envoy.config.core.v3.rs"));
            }
        }
    }
    /// `envoy.service`.
    pub mod service {
        /// `envoy.service.auth`.
        pub mod auth {
            /// `envoy.service.auth.v3`: the service, what it is asked and what it answers.
            pub mod v3 {
                #![expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated")]
                include!(concat!(env!("OUT_DIR"), "/envoy.service.auth.v3.rs"));
            }
        }
    }
    /// `envoy.type`.
    pub mod r#type {
        /// `envoy.type.v3`.
        pub mod v3 {
            include!(concat!(env!("OUT_DIR"), "/envoy.r#type.v3.rs"));
        }
    }
}

/// The descriptors of every service, for reflection and the JSON mapping.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/keyclasp.bin"));

impl fmt::Debug for v1::ValidateKeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateKeyRequest")
            .field("realm", &self.realm)
            .field("required_scopes", &self.required_scopes)
            .field("source_address", &self.source_address)
            .field("source_principal", &self.source_principal)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::RevokeOwnKeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevokeOwnKeyRequest").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::CreateKeyResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateKeyResponse").field("key", &self.key).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::RotateKeyResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotateKeyResponse")
            .field("key", &self.key)
            .field("old_key", &self.old_key)
            .field("fence", &self.fence)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for envoy::config::core::v3::HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderValue").field("key", &self.key).finish_non_exhaustive()
    }
}

impl fmt::Debug for envoy::service::auth::v3::attribute_context::HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the path nor the fields: a key may be in both.
        f.debug_struct("HttpRequest").field("host", &self.host).finish_non_exhaustive()
    }
}
