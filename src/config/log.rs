//! `[log]`: what is said on standard error, and how.

use std::path::Path;

use tracing_subscriber::EnvFilter;

use super::setting::{Fault, Setting, section};
use super::source::Raw;
use super::types::text;
use crate::telemetry::{LogConfig, LogFormat};

section! {
    /// The log, on standard error. It never holds a secret.
    ["log"] pub(super) struct Log {
        /// How a line looks: `human` or `json`.
        format: LogFormat = "human",
        /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or directives such as `info,keyclasp=debug`.
        level: LogFilter = "info",
    }
    check |_, _| {}
}

impl Log {
    /// As the logger takes it.
    pub(super) fn config(self) -> LogConfig {
        LogConfig { format: self.format, filter: self.level.0 }
    }
}

impl Setting for LogFormat {
    fn form() -> String {
        "a log format".to_owned()
    }

    fn example() -> String {
        "\"human\" or \"json\"".to_owned()
    }

    fn parse(value: &Raw, _: &Path) -> Result<Self, Fault> {
        match text(value) {
            Some("human") => Ok(Self::Human),
            Some("json") => Ok(Self::Json),
            _ => Err(Fault::form::<Self>()),
        }
    }
}

/// Directives that a filter can be built from.
#[derive(Debug, Clone)]
pub(super) struct LogFilter(String);

impl Setting for LogFilter {
    fn form() -> String {
        "a level or a list of directives".to_owned()
    }

    fn example() -> String {
        "\"info\" or \"info,keyclasp=debug\"".to_owned()
    }

    fn parse(value: &Raw, _: &Path) -> Result<Self, Fault> {
        let text = text(value).filter(|text| !text.is_empty()).ok_or_else(Fault::form::<Self>)?;
        // A word that is no level is taken for the name of a module, which is never what was meant.
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        let known = |directive: &str| match directive.rsplit_once('=') {
            Some((_, level)) => levels.contains(&level),
            None => levels.contains(&directive),
        };
        if text.split(',').all(known) && EnvFilter::try_new(text).is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            Err(Fault::form::<Self>())
        }
    }
}
