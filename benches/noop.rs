//! The reference: a KeyService that decides nothing. ValidateKey decodes its request and answers
//! the same message each time, as long as keyclasp's. No authentication, no limits, no metrics.

use keyclasp::rpc::proto::v1;
use keyclasp::rpc::proto::v1::key_service_server::{KeyService, KeyServiceServer};
use tonic::{Request, Response, Status};

/// A service whose answer has `len` bytes.
pub(crate) fn service(len: usize) -> KeyServiceServer<Noop> {
    // Outcome: two bytes. Message: a tag, the length of the text, the text.
    let text = len.saturating_sub(if len > 2 + 2 + 127 { 5 } else { 4 });
    KeyServiceServer::new(Noop { message: "-".repeat(text) })
}

/// Answers; see the module.
#[derive(Debug)]
pub(crate) struct Noop {
    message: String,
}

macro_rules! serve {
    ($($method:ident: $request:ident => $response:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl KeyService for Noop {
            async fn validate_key(
                &self,
                _: Request<v1::ValidateKeyRequest>,
            ) -> Result<Response<v1::ValidateKeyResponse>, Status> {
                Ok(Response::new(v1::ValidateKeyResponse {
                    outcome: v1::Outcome::Valid.into(),
                    message: self.message.clone(),
                    ..Default::default()
                }))
            }

            $(async fn $method(&self, _: Request<v1::$request>) -> Result<Response<v1::$response>, Status> {
                Err(Status::unimplemented("the reference only validates"))
            })*
        }
    };
}

serve! {
    create_key: CreateKeyRequest => CreateKeyResponse,
    get_key: GetKeyRequest => GetKeyResponse,
    list_keys: ListKeysRequest => ListKeysResponse,
    update_key: UpdateKeyRequest => UpdateKeyResponse,
    rotate_key: RotateKeyRequest => RotateKeyResponse,
    suspend_key: SuspendKeyRequest => SuspendKeyResponse,
    resume_key: ResumeKeyRequest => ResumeKeyResponse,
    revoke_key: RevokeKeyRequest => RevokeKeyResponse,
    revoke_keys: RevokeKeysRequest => RevokeKeysResponse,
    revoke_own_key: RevokeOwnKeyRequest => RevokeOwnKeyResponse,
}
