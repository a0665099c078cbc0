//! `keyclasp.v1.AuditService`: parses the request, asks the use case, writes the answer.

use tonic::{Request, Response, Status};

use super::auth;
use super::convert;
use super::error::status;
use super::proto::v1;
use super::proto::v1::audit_service_server::AuditService;
use crate::service::Service;

/// The service on the wire.
#[derive(Debug, Clone)]
pub struct Audit {
    service: Service,
}

impl Audit {
    /// Over the use cases.
    #[must_use]
    pub const fn new(service: Service) -> Self {
        Self { service }
    }
}

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let call = auth::call(&request)?;
        let listing = convert::event_listing(request.into_inner()).map_err(status)?;
        let page = self.service.audit.list(&call, &listing).await.map_err(status)?;
        Ok(Response::new(v1::ListEventsResponse {
            events: page.events.into_iter().map(convert::event).collect(),
            next_page_token: page.next_page_token,
        }))
    }
}
