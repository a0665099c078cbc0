//! Compiles `proto/` with protox, so that a build needs no system protoc.

use std::path::{Path, PathBuf};

/// Messages that carry a key's text or a header that may hold one: their `Debug` is written by hand in
/// `src/rpc/proto.rs`, so that printing a request never prints a secret.
const SECRET_MESSAGES: [&str; 6] = [
    ".keyclasp.v1.ValidateKeyRequest",
    ".keyclasp.v1.RevokeOwnKeyRequest",
    ".keyclasp.v1.CreateKeyResponse",
    ".keyclasp.v1.RotateKeyResponse",
    ".envoy.config.core.v3.HeaderValue",
    ".envoy.service.auth.v3.AttributeContext.HttpRequest",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/keyclasp/v1/key.proto",
        "proto/keyclasp/v1/key_service.proto",
        "proto/keyclasp/v1/audit_service.proto",
        "proto/keyclasp/v1/admin_service.proto",
        "proto/keyclasp/store/v1/record.proto",
        "proto/envoy/service/auth/v3/external_auth.proto",
    ];
    println!("cargo::rerun-if-changed=proto");

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(files.map(|file| Path::new(file).strip_prefix("proto").unwrap_or(Path::new(file)).to_owned()))?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // For reflection and for the JSON mapping.
    std::fs::write(out.join("keyclasp.bin"), compiler.encode_file_descriptor_set())?;

    let mut prost = prost_build::Config::new();
    // Sorted maps: the same message is the same bytes, and the same text in a log.
    prost.btree_map(["."]);
    prost.skip_debug(SECRET_MESSAGES);
    // The type that the other services' errors have.
    prost.extern_path(".google.rpc.Status", "::tonic_types::pb::Status");
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds_with_config(compiler.file_descriptor_set(), prost)?;
    Ok(())
}
