//! The methods that there are, as their descriptors say: ours, health and reflection.

use std::sync::Arc;

use prost::Message as _;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use prost_types::{DescriptorProto, FileDescriptorSet};

use super::proto;

/// Package of everything that is keyclasp's own.
const PACKAGE: &str = "keyclasp.";
/// The health service.
const HEALTH: &str = "grpc.health.v1.Health";
/// Services that need no caller: whether this process serves, and what its API is, are no secrets.
const OPEN_SERVICES: [&str; 3] =
    [HEALTH, "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];
/// Methods of ours that need no caller: the presented key is the right.
const OPEN_METHODS: [&str; 1] = ["/keyclasp.v1.KeyService/RevokeOwnKey"];
/// Methods that answer also those whom they refuse: an error would open a proxy that fails open.
const JUDGING_METHODS: [&str; 1] = ["/envoy.service.auth.v3.Authorization/Check"];
/// What tells what an answer waited for.
const FENCE: &str = "keyclasp.v1.Fence";
/// What is stored, but is no part of the API.
const NOT_FOR_REFLECTION: &str = "keyclasp/store/";

/// One method.
#[derive(Debug)]
pub(super) struct Method {
    /// Its place in [`Methods::all`], which is its place in the metrics.
    pub(super) index: usize,
    /// `/package.Service/Method`.
    pub(super) path: String,
    /// `package.Service`.
    pub(super) service: String,
    /// Whether it is one of keyclasp's; health and reflection are not.
    pub(super) ours: bool,
    /// Whether it is one of health's, whose Check is answered also under load.
    pub(super) health: bool,
    /// Whether it needs no caller.
    pub(super) open: bool,
    /// Whether it answers also a caller whom it refuses.
    pub(super) judges: bool,
    /// Whether it is asked with one message, whatever it answers.
    pub(super) one_message: bool,
    /// Whether it is one message each way; only such a method can be called with JSON.
    pub(super) unary: bool,
    /// Whether it tells what it waited for.
    pub(super) fences: bool,
    /// What it is asked.
    pub(super) input: MessageDescriptor,
    /// What it answers.
    pub(super) output: MessageDescriptor,
}

/// Every method, and the descriptors they come from.
#[derive(Debug)]
pub(super) struct Methods {
    pool: DescriptorPool,
    all: Vec<Arc<Method>>,
    reflection: FileDescriptorSet,
}

impl Methods {
    /// From the descriptors that are part of this program.
    ///
    /// # Errors
    /// When they contradict each other, which a test would have found.
    pub(super) fn load() -> Result<Self, Box<dyn std::error::Error>> {
        let mut pool = DescriptorPool::decode(proto::DESCRIPTORS)?;
        for set in [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
            // For the details of errors in JSON.
            tonic_types::pb::FILE_DESCRIPTOR_SET,
        ] {
            // google.rpc.Status is described in two of these, in files of different names, and the pool takes no
            // message twice.
            let mut set = FileDescriptorSet::decode(set)?;
            set.file.retain(|file| {
                let known = |message: &DescriptorProto| {
                    pool.get_message_by_name(&format!("{}.{}", file.package(), message.name())).is_some()
                };
                !file.message_type.iter().any(known)
            });
            pool.add_file_descriptor_set(set)?;
        }
        let all: Vec<_> = pool
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .enumerate()
            .map(|(index, method)| {
                let service = method.parent_service().full_name().to_owned();
                let path = format!("/{service}/{}", method.name());
                let ours = service.starts_with(PACKAGE);
                Arc::new(Method {
                    index,
                    ours,
                    health: service == HEALTH,
                    open: is_open(&service, &path),
                    judges: JUDGING_METHODS.contains(&path.as_str()),
                    one_message: !method.is_client_streaming(),
                    unary: !method.is_client_streaming() && !method.is_server_streaming(),
                    fences: method
                        .output()
                        .fields()
                        .any(|field| field.kind().as_message().is_some_and(|message| message.full_name() == FENCE)),
                    input: method.input(),
                    output: method.output(),
                    path,
                    service,
                })
            })
            .collect();
        let files = pool.file_descriptor_protos().filter(|file| !file.name().starts_with(NOT_FOR_REFLECTION));
        let reflection = FileDescriptorSet { file: files.cloned().collect() };
        Ok(Self { pool, all, reflection })
    }

    /// All of them, by index.
    pub(super) fn all(&self) -> &[Arc<Method>] {
        &self.all
    }

    /// What reflection tells.
    pub(super) fn reflection(&self) -> Vec<u8> {
        self.reflection.encode_to_vec()
    }

    /// The descriptor of a message.
    pub(super) fn message(&self, name: &str) -> Option<MessageDescriptor> {
        self.pool.get_message_by_name(name)
    }
}

/// Whether a method needs no caller: what is not listed needs one, whoever its service belongs to.
fn is_open(service: &str, path: &str) -> bool {
    OPEN_SERVICES.contains(&service) || OPEN_METHODS.contains(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_needs_a_caller_also_if_it_is_not_ours() {
        for service in
            ["grpc.channelz.v1.Channelz", "grpc.health.v2.Health", "grpc.health.v1.Health2", "", "other.v1.X"]
        {
            assert!(!is_open(service, &format!("/{service}/Check")), "{service}");
        }
        assert!(!is_open("other.v1.KeyService", "/other.v1.KeyService/RevokeOwnKey"));
        let methods = Methods::load().unwrap();
        // A name that changed would close what has to be open.
        for name in OPEN_SERVICES {
            assert!(methods.all().iter().any(|method| method.service == name), "{name}");
        }
        for path in OPEN_METHODS.into_iter().chain(JUDGING_METHODS) {
            assert!(methods.all().iter().any(|method| method.path == path), "{path}");
        }
    }

    #[test]
    fn the_methods_are_known_and_few_are_open() {
        let methods = Methods::load().unwrap();
        assert!(methods.all().iter().enumerate().all(|(index, method)| method.index == index));
        let mut open: Vec<_> =
            methods.all().iter().filter(|method| method.open).map(|method| method.path.as_str()).collect();
        open.sort_unstable();
        assert_eq!(
            open,
            [
                "/grpc.health.v1.Health/Check",
                "/grpc.health.v1.Health/Watch",
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                "/keyclasp.v1.KeyService/RevokeOwnKey",
            ]
        );
        let ours = methods.all().iter().filter(|method| method.ours);
        assert!(ours.clone().count() >= 13 && ours.clone().all(|method| method.unary), "JSON serves every method");
        for name in ["google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo"] {
            assert!(methods.message(name).is_some(), "{name}");
        }
    }

    #[test]
    fn what_is_stored_is_not_told() {
        let told = FileDescriptorSet::decode(Methods::load().unwrap().reflection().as_slice()).unwrap();
        assert!(told.file.iter().any(|file| file.name() == "keyclasp/v1/key_service.proto"));
        assert!(!told.file.iter().any(|file| file.package().contains("store")));
    }
}
