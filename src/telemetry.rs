//! Logs: human or JSON, to standard error, filtered by a directive string. A line per mutation,
//! none per validation. Nothing here knows what is logged.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// In which form.
    pub format: LogFormat,
    /// What, such as `info` or `keyclasp=debug,h2=warn`.
    pub filter: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

impl LogConfig {
    /// Starts logging for this process; a second call does nothing.
    ///
    /// # Errors
    /// When the filter cannot be read; the message says where.
    pub fn start(&self) -> Result<(), FilterError> {
        let filter = EnvFilter::try_new(&self.filter).map_err(|error| FilterError(error.to_string()))?;
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        // An error means that a subscriber is set already, as in a test: it stays.
        let _ = match self.format {
            LogFormat::Human => builder.try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
        Ok(())
    }
}

/// The filter is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("log.level: {0}; write a level (error, warn, info, debug, trace) or directives such as keyclasp=debug,h2=warn")]
pub struct FilterError(String);
