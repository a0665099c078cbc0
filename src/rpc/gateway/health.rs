//! `grpc.health.v1`: whether this process serves.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// Messages of health are a name: nothing longer is read.
const MESSAGE_BYTES: usize = 4096;

/// Says whether this process serves; clones say the same.
#[derive(Debug, Clone)]
pub struct Health {
    reporter: HealthReporter,
    /// The whole process (the empty name) and each service.
    names: Arc<BTreeSet<String>>,
}

impl Health {
    /// NOT_SERVING.
    pub(super) fn new<'a>(services: impl Iterator<Item = &'a str>) -> Self {
        let names = services.map(str::to_owned).chain([String::new()]).collect();
        let health = Self { reporter: HealthReporter::new(), names: Arc::new(names) };
        // The reporter begins as SERVING. Nobody else has it yet: this takes its lock at once.
        let _ = health.set_serving(false).now_or_never();
        health
    }

    /// SERVING or NOT_SERVING, for the process and each of its services.
    pub async fn set_serving(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in &*self.names {
            self.reporter.set_service_status(name, status).await;
        }
    }

    pub(super) fn server(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
            .max_decoding_message_size(MESSAGE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus as Answered;
    use tonic_health::pb::health_server::Health as _;

    use super::*;

    #[tokio::test]
    async fn nothing_serves_until_it_is_said() {
        let health = Health::new(["a.B", "a.C"].into_iter());
        let service = HealthService::from_health_reporter(health.reporter.clone());
        for serving in [None, Some(true), Some(false)] {
            if let Some(serving) = serving {
                health.set_serving(serving).await;
            }
            for name in ["", "a.B", "a.C"] {
                let request = tonic::Request::new(HealthCheckRequest { service: name.to_owned() });
                let answered = service.check(request).await.unwrap().into_inner().status();
                assert_eq!(answered == Answered::Serving, serving == Some(true), "{name}");
            }
        }
    }
}
