//! The generated API, and `Debug` for the messages that carry a secret.

use std::fmt;

/// `keyclasp.v1`: documented in `proto/keyclasp/v1`.
pub mod v1 {
    #![expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/keyclasp.v1.rs"));
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
