//! `keyclasp.v1.KeyService`: parses the request, asks the use case, writes the answer.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::auth;
use super::convert;
use super::error::status;
use super::gateway::{KeyCheck, Written};
use super::proto::v1;
use super::proto::v1::key_service_server::KeyService;
use super::written;
use crate::key::{ApiKey, KeyRecord};
use crate::service::access::Call;
use crate::service::validate::{Check, Outcome};
use crate::service::{Fence, Held, Service};

/// The service on the wire.
#[derive(Debug, Clone)]
pub struct Keys {
    service: Service,
}

impl Keys {
    /// Over the use cases.
    #[must_use]
    pub const fn new(service: Service) -> Self {
        Self { service }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl KeyService for Keys {
    async fn create_key(&self, request: Request<v1::CreateKeyRequest>) -> Answer<v1::CreateKeyResponse> {
        let call = auth::call(&request)?;
        let (draft, request_id) = convert::draft(request.into_inner()).map_err(status)?;
        let created = self.service.keys.create(&call, draft, request_id).await.map_err(status)?;
        Ok(Response::new(v1::CreateKeyResponse {
            key: Some(convert::key(created.key)),
            api_key: text(created.text.as_ref()),
        }))
    }

    async fn get_key(&self, request: Request<v1::GetKeyRequest>) -> Answer<v1::GetKeyResponse> {
        let call = auth::call(&request)?;
        let id = convert::id(&request.get_ref().id).map_err(status)?;
        let seen = self.service.keys.get(&call, id).await.map_err(status)?;
        Ok(Response::new(v1::GetKeyResponse { key: Some(convert::key(seen)) }))
    }

    async fn list_keys(&self, request: Request<v1::ListKeysRequest>) -> Answer<v1::ListKeysResponse> {
        let call = auth::call(&request)?;
        let listing = convert::listing(request.into_inner()).map_err(status)?;
        let listed = self.service.keys.list(&call, &listing).await.map_err(status)?;
        Ok(Response::new(v1::ListKeysResponse {
            keys: listed.records.into_iter().map(|record| convert::record(record, listed.now)).collect(),
            next_page_token: listed.next_page_token,
        }))
    }

    async fn update_key(&self, request: Request<v1::UpdateKeyRequest>) -> Answer<v1::UpdateKeyResponse> {
        let call = auth::call(&request)?;
        let (id, patch, version) = convert::update(request.into_inner()).map_err(status)?;
        let changed = self.service.keys.update(&call, id, patch, version).await.map_err(status)?;
        Ok(Response::new(v1::UpdateKeyResponse {
            key: Some(convert::key(changed.key)),
            fence: changed.fence.map(convert::fence),
        }))
    }

    async fn rotate_key(&self, request: Request<v1::RotateKeyRequest>) -> Answer<v1::RotateKeyResponse> {
        let call = auth::call(&request)?;
        let rotation = convert::rotation(request.into_inner()).map_err(status)?;
        let rotated = self.service.keys.rotate(&call, &rotation).await.map_err(status)?;
        Ok(Response::new(v1::RotateKeyResponse {
            key: Some(convert::key(rotated.key)),
            api_key: text(rotated.text.as_ref()),
            old_key: rotated.old.map(convert::key),
            fence: Some(convert::fence(rotated.fence)),
        }))
    }

    async fn suspend_key(&self, request: Request<v1::SuspendKeyRequest>) -> Answer<v1::SuspendKeyResponse> {
        let call = auth::call(&request)?;
        let request = request.into_inner();
        let (id, reason, until, _) =
            convert::id_and_reason(&request.id, &request.reason, request.until, "").map_err(status)?;
        let changed = self.service.keys.suspend(&call, id, reason, until).await.map_err(status)?;
        Ok(Response::new(v1::SuspendKeyResponse {
            key: Some(convert::key(changed.key)),
            fence: changed.fence.map(convert::fence),
        }))
    }

    async fn resume_key(&self, request: Request<v1::ResumeKeyRequest>) -> Answer<v1::ResumeKeyResponse> {
        let call = auth::call(&request)?;
        let request = request.into_inner();
        let (id, reason, ..) = convert::id_and_reason(&request.id, &request.reason, None, "").map_err(status)?;
        let changed = self.service.keys.resume(&call, id, reason).await.map_err(status)?;
        Ok(Response::new(v1::ResumeKeyResponse { key: Some(convert::key(changed.key)) }))
    }

    async fn revoke_key(&self, request: Request<v1::RevokeKeyRequest>) -> Answer<v1::RevokeKeyResponse> {
        let call = auth::call(&request)?;
        let request = request.into_inner();
        let (id, reason, _, request_id) =
            convert::id_and_reason(&request.id, &request.reason, None, &request.request_id).map_err(status)?;
        let changed = self.service.keys.revoke(&call, id, reason, request_id).await.map_err(status)?;
        Ok(Response::new(v1::RevokeKeyResponse {
            key: Some(convert::key(changed.key)),
            fence: changed.fence.map(convert::fence),
        }))
    }

    async fn revoke_keys(&self, request: Request<v1::RevokeKeysRequest>) -> Answer<v1::RevokeKeysResponse> {
        let call = auth::call(&request)?;
        let selection = convert::selection(request.get_ref()).map_err(status)?;
        let swept = self.service.sweep.revoke(&call, &selection).await.map_err(status)?;
        Ok(Response::new(v1::RevokeKeysResponse {
            revoked: swept.revoked,
            already_ended: swept.already_ended,
            fences: swept.fences.into_iter().map(convert::fence).collect(),
        }))
    }

    async fn validate_key(&self, request: Request<v1::ValidateKeyRequest>) -> Answer<v1::ValidateKeyResponse> {
        let call = auth::call(&request)?;
        let written = self.check(&call, request.into_inner()).await?;
        written.message().map(Response::new).map_err(|error| Status::internal(error.to_string()))
    }

    async fn revoke_own_key(&self, request: Request<v1::RevokeOwnKeyRequest>) -> Answer<v1::RevokeOwnKeyResponse> {
        let (origin, ends) = (auth::origin(&request), auth::ends(&request));
        let mut request = request.into_inner();
        let text = ApiKey::new(std::mem::take(&mut request.api_key));
        let reason = convert::reason(&request.reason).map_err(status)?;
        let fence = self.service.own.revoke(&text, reason, &origin, ends).await.map_err(status)?;
        // How many replicas there are and how much they write is no business of who holds a key.
        let told = Fence { duration: fence.duration, ..Fence::default() };
        Ok(Response::new(v1::RevokeOwnKeyResponse { fence: Some(convert::fence(told)) }))
    }
}

impl KeyCheck for Keys {
    async fn check(
        &self,
        call: &Call,
        mut request: v1::ValidateKeyRequest,
    ) -> Result<Written<v1::ValidateKeyResponse>, Status> {
        // From here on the text is in a type that cannot be printed.
        let text = ApiKey::new(std::mem::take(&mut request.api_key));
        let asked = convert::asked(request).map_err(status)?;
        let check = Check {
            text: &text,
            realm: asked.realm.as_ref(),
            required_scopes: &asked.required_scopes,
            source_address: asked.source_address,
            source_principal: asked.source_principal.as_deref(),
        };
        let checked = self.service.validator.validate(call, &check).await.map_err(status)?;
        let write = |record: Option<&KeyRecord>| {
            let record = record.map(|record| (record, checked.now));
            let (code, message) = (outcome(checked.outcome).into(), checked.outcome.message());
            written::answer(code, record, &checked.missing_scopes, message)
        };
        Ok(Written::from_bytes(match (&checked.record, checked.outcome) {
            // All that this answer says, the record says; somebody else who has it keeps it.
            (Some(held), Outcome::Valid) if Arc::strong_count(held) > 1 => {
                held.valid_answer(|record| write(Some(record)))
            }
            (record, _) => write(record.as_deref().map(Held::record)).into(),
        }))
    }
}

fn text(text: Option<&ApiKey>) -> String {
    text.map_or_else(String::new, |text| text.expose().to_owned())
}

const fn outcome(outcome: Outcome) -> v1::Outcome {
    match outcome {
        Outcome::Valid => v1::Outcome::Valid,
        Outcome::Malformed => v1::Outcome::Malformed,
        Outcome::Unknown => v1::Outcome::Unknown,
        Outcome::Revoked => v1::Outcome::Revoked,
        Outcome::Suspended => v1::Outcome::Suspended,
        Outcome::Expired => v1::Outcome::Expired,
        Outcome::NotYetValid => v1::Outcome::NotYetValid,
        Outcome::WrongRealm => v1::Outcome::WrongRealm,
        Outcome::MissingScope => v1::Outcome::MissingScope,
        Outcome::AddressDenied => v1::Outcome::AddressDenied,
        Outcome::PrincipalDenied => v1::Outcome::PrincipalDenied,
        Outcome::OwnerInactive => v1::Outcome::OwnerInactive,
        Outcome::RateLimited => v1::Outcome::RateLimited,
    }
}
