//! Everything that port 7413 answers, by path.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use tonic::body::Body;
use tower::Service as _;

use super::admin::Admin;
use super::audit::Audit;
use super::auth::{Authenticator, Caller};
use super::error;
use super::keys::Keys;
use super::proto::v1::admin_service_server::AdminServiceServer;
use super::proto::v1::audit_service_server::AuditServiceServer;
use super::proto::v1::key_service_server::KeyServiceServer;
use crate::service::{ErrorKind, Service};

/// The services of one port.
#[derive(Debug, Clone)]
pub struct Gateway {
    keys: KeyServiceServer<Keys>,
    audit: AuditServiceServer<Audit>,
    admin: AdminServiceServer<Admin>,
    authenticator: Arc<Authenticator>,
}

impl Gateway {
    /// Over the use cases.
    #[must_use]
    pub fn new(service: &Service, authenticator: Arc<Authenticator>) -> Self {
        Self {
            keys: KeyServiceServer::new(Keys::new(service.clone())),
            audit: AuditServiceServer::new(Audit::new(service.clone())),
            admin: AdminServiceServer::new(Admin::new(service.clone())),
            authenticator,
        }
    }

    /// Answers one request.
    ///
    /// # Errors
    /// Never.
    pub async fn answer(
        &self,
        mut request: http::Request<Incoming>,
        origin: Arc<str>,
    ) -> Result<http::Response<Body>, Infallible> {
        let principal = match self.authenticator.authenticate(request.headers()) {
            Ok(principal) => principal.cloned(),
            Err(error) => return Ok(error::status(error).into_http()),
        };
        request.extensions_mut().insert(Caller { principal, origin });
        let path = request.uri().path();
        if path.starts_with("/keyclasp.v1.KeyService/") {
            self.keys.clone().call(request).await
        } else if path.starts_with("/keyclasp.v1.AuditService/") {
            self.audit.clone().call(request).await
        } else if path.starts_with("/keyclasp.v1.AdminService/") {
            self.admin.clone().call(request).await
        } else {
            Ok(error::refuse(ErrorKind::MethodUnknown, "there is no such method").into_http())
        }
    }
}
