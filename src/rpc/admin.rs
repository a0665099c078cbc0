//! `keyclasp.v1.AdminService`: the state of this replica.

use tonic::{Request, Response, Status};

use super::auth;
use super::convert;
use super::error::status;
use super::proto::v1;
use super::proto::v1::admin_service_server::AdminService;
use crate::clock::Timestamp;
use crate::fence::{Size, Standing, Waits};
use crate::service::Service;
use crate::service::status::FenceState;

/// The service on the wire.
#[derive(Debug, Clone)]
pub struct Admin {
    service: Service,
}

impl Admin {
    /// Over the use cases.
    #[must_use]
    pub const fn new(service: Service) -> Self {
        Self { service }
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let call = auth::call(&request)?;
        let state = self.service.status.status(&call, request.get_ref().count_records).await.map_err(status)?;
        let mut store = v1::StoreStatus {
            kind: state.store.kind.to_owned(),
            location: state.store.location,
            shards: state.shards.into(),
            ..v1::StoreStatus::default()
        };
        match state.health {
            Ok((health, latency)) => {
                store.reachable = true;
                store.role = health.role;
                store.version = health.version;
                store.epochs = health.epochs.iter().map(ToString::to_string).collect();
                store.durable = health.durability.is_durable();
                store.durability = health.durability.text().to_owned();
                store.latency = Some(convert::span(latency));
                if let Some(replication) = health.replication {
                    store.replicas = replication.configured;
                    store.replicas_connected = replication.connected;
                    store.replicas_needed = replication.needed;
                    store.wait = replication.text();
                }
                store.clock_offset = health.clock.map(|clock| offset(clock, state.now));
            }
            Err(error) => store.error = error.to_string(),
        }
        Ok(Response::new(v1::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Some(convert::time(state.started_at)),
            now: Some(convert::time(state.now)),
            store: Some(store),
            peppers: state
                .peppers
                .into_iter()
                .enumerate()
                .map(|(index, (id, records))| v1::PepperStatus { id: id.to_string(), current: index == 0, records })
                .collect(),
            findings: state.findings.into_iter().map(v1::Finding::from).collect(),
            cache: Some(state.memory.map_or_else(v1::CacheStatus::default, cache)),
            fence: state.fence.map(fence),
        }))
    }
}

fn cache(size: Size) -> v1::CacheStatus {
    v1::CacheStatus { records: u64::try_from(size.values).unwrap_or(u64::MAX), bytes: size.bytes, room: size.room }
}

fn fence(state: FenceState) -> v1::FenceStatus {
    let Waits { acknowledged, lapsed, time_up, unknown, average, longest } = state.waits;
    v1::FenceStatus {
        term: Some(convert::span(state.term)),
        member: state.member.to_string(),
        shards: (0..).zip(state.shards).map(|(number, standing)| shard(number, standing)).collect(),
        waits: Some(v1::FenceWaits {
            acknowledged,
            lapsed,
            time_up,
            unknown,
            average: Some(convert::span(average)),
            longest: Some(convert::span(longest)),
        }),
    }
}

fn shard(number: u32, standing: Standing) -> v1::ShardStatus {
    v1::ShardStatus {
        shard: number,
        epoch: standing.epoch.map_or_else(String::new, |epoch| epoch.to_string()),
        epoch_age: standing.age.map(convert::span),
        lease_left: standing.left.map(convert::span),
        trouble: standing.trouble.map_or_else(String::new, |error| error.to_string()),
        log_lag: standing.lag,
        members: u32::try_from(standing.members).unwrap_or(u32::MAX),
        settled: standing.settled,
        drops: standing.turns,
    }
}

/// The store's clock minus this replica's; may be negative.
fn offset(store: Timestamp, here: Timestamp) -> prost_types::Duration {
    if store >= here {
        convert::span(store.since(here))
    } else {
        let behind = convert::span(here.since(store));
        prost_types::Duration { seconds: -behind.seconds, nanos: -behind.nanos }
    }
}
