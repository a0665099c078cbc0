//! `keyclasp store …`: what is changed in the store itself, past the service.

use std::time::Duration;

use clap::Subcommand;

use super::Context;
use super::failure::{Exit, Failure};
use crate::app;
use crate::config::{Config, Lease};
use crate::store::StoreError;

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub(super) enum Store {
    /// Sets how long leases last, for all replicas on one Redis. All of them have to be stopped.
    ///
    /// Waits until no lease can run any more, which may take as long as one lasts.
    SetLease {
        /// From 100ms to 60s, such as 5s.
        #[arg(value_parser = term, value_name = "DURATION")]
        term: Duration,
    },
}

fn term(text: &str) -> Result<Duration, String> {
    Lease::parse(text).map(Lease::get).map_err(|error| error.to_string())
}

impl Store {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        let Self::SetLease { term } = self;
        let config = Config::load(&context.sources()).map_err(|problems| Failure::refused(problems.to_string()))?;
        let configured = config.lease.map(Lease::get);
        let location = app::set_lease(config, term).map_err(failed)?.location;
        let shown = humantime::format_duration(term);
        context.out.line(&format!("Leases of {location} last {shown} from now on"))?;
        if let Some(configured) = configured.filter(|configured| *configured != term)
            && !context.out.is_quiet()
        {
            context.out.note(&format!(
                "The configuration says fence.lease = {}: set it to \"{shown}\" or leave it unset before replicas are started.",
                humantime::format_duration(configured)
            ));
        }
        Ok(Exit::Done)
    }
}

fn failed(error: StoreError) -> Failure {
    match error {
        StoreError::Unavailable(_) => Failure::unavailable(error.to_string()),
        other => Failure::refused(other.to_string()),
    }
}
