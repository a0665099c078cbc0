//! `keyclasp init`: the files of a new service.

use std::path::PathBuf;

use clap::Args;

use super::Context;
use super::failure::{Exit, Failure};
use super::serve::program;
use crate::config::{self, ADMIN_TOKEN_FILE, CONFIG_FILE};

/// Where, and on which store.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// The directory: made, or taken as it is. Its own files are never overwritten.
    #[arg(long, value_name = "DIRECTORY")]
    dir: PathBuf,
    /// The store: redis://HOST:PORT, unix:///SOCKET or file:///DIRECTORY. Without it, an embedded
    /// file in the directory. It is not contacted.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

impl Init {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        let now = context.now();
        let created = config::init(&self.dir, self.store.as_deref(), now, &context.entropy)
            .map_err(|error| Failure::refused(error.to_string()))?;
        let out = &mut context.out;
        for file in &created.files {
            out.line(&format!("Wrote {}", file.display()))?;
        }
        if !out.is_quiet() {
            let program = program();
            let file = |name: &str| self.dir.join(name).display().to_string();
            out.note(&format!(
                "\nStart it:  {program} serve --config {}\nCall it:   export KEYCLASP_TOKEN_FILE={}\n\
                 Back up keyring.toml, apart from the store: without it no key verifies.",
                file(CONFIG_FILE),
                file(ADMIN_TOKEN_FILE),
            ));
        }
        Ok(Exit::Done)
    }
}
