//! Compiles `proto/` with protox, so that a build needs no system protoc.

use std::path::{Path, PathBuf};

use prost_types::{FileDescriptorSet, OneofDescriptorProto, field_descriptor_proto};

/// Messages that carry a key's text: their `Debug` is written by hand in
/// `src/rpc/proto.rs`, so that printing a request never prints a secret.
const SECRET_MESSAGES: [&str; 4] = [
    ".keyclasp.v1.ValidateKeyRequest",
    ".keyclasp.v1.RevokeOwnKeyRequest",
    ".keyclasp.v1.CreateKeyResponse",
    ".keyclasp.v1.RotateKeyResponse",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/keyclasp/v1/key.proto",
        "proto/keyclasp/v1/key_service.proto",
        "proto/keyclasp/v1/audit_service.proto",
        "proto/keyclasp/v1/admin_service.proto",
        "proto/keyclasp/store/v1/record.proto",
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
    prost.bytes([WRITTEN_KEY]);
    let mut descriptors = compiler.file_descriptor_set();
    written(&mut descriptors)?;
    tonic_prost_build::configure().build_transport(false).compile_fds_with_config(descriptors, prost)?;
    Ok(())
}

/// The field of the answer on the check path that holds a message. The generated code has the bytes of that
/// message instead, which on the wire are the same: a key that is checked again and again is written once.
const WRITTEN_KEY: &str = ".keyclasp.v1.ValidateKeyResponse.key";

fn written(descriptors: &mut FileDescriptorSet) -> Result<(), String> {
    let (message_name, field_name) = WRITTEN_KEY.rsplit_once('.').ok_or("a path without a field")?;
    for file in &mut descriptors.file {
        let package = file.package().to_owned();
        for message in &mut file.message_type {
            if format!(".{package}.{}", message.name()) != message_name {
                continue;
            }
            let field = message.field.iter_mut().find(|field| field.name() == field_name);
            let field = field.ok_or("the message has no such field")?;
            field.set_type(field_descriptor_proto::Type::Bytes);
            field.type_name = None;
            // Present or not, as a message is: that takes a oneof of one field.
            field.proto3_optional = Some(true);
            field.oneof_index = Some(i32::try_from(message.oneof_decl.len()).map_err(|error| error.to_string())?);
            message.oneof_decl.push(OneofDescriptorProto { name: Some(format!("_{field_name}")), options: None });
            return Ok(());
        }
    }
    Err(format!("{WRITTEN_KEY} is not in the API any more"))
}
