//! `keyclasp keyring …`: the peppers of a service.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::failure::{Exit, Failure};
use super::output::{Format, Table};
use super::values::{shown_time, wire_time};
use super::{Context, block_on};
use crate::config::{CONFIG_FILE, Config, KEYRING_FILE, KeyringFile, KeyringFileError, Peppers, Sources};
use crate::key::PepperId;
use crate::rpc::proto::v1;

/// What to do with the keyring.
#[derive(Debug, Subcommand)]
pub(super) enum Keyring {
    /// Adds a new pepper. Keys go on being made under the current one until `use`.
    Add {
        #[command(flatten)]
        place: Place,
        /// What to call it: up to 16 of a-z, 0-9 and -. Default: today's date.
        id: Option<String>,
    },
    /// Makes new keys under another pepper from now on.
    Use {
        #[command(flatten)]
        place: Place,
        /// The pepper's id.
        id: String,
    },
    /// Removes a pepper, once no key is left under it.
    ///
    /// Asks one replica, which cannot speak for the others: restart every replica after `use` first.
    Retire {
        #[command(flatten)]
        place: Place,
        /// The pepper's id.
        id: String,
        /// Removes it without asking the service: keys under it never pass again.
        #[arg(long)]
        force: bool,
    },
    /// Shows the peppers, and how many keys are under each.
    Status {
        #[command(flatten)]
        place: Place,
    },
}

/// Where the keyring is. Without these: where the configuration says (--config).
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The keyring file itself.
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    file: Option<PathBuf>,
    /// The directory that `init` made.
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

impl Place {
    fn find(&self, context: &Context) -> Result<KeyringFile, Failure> {
        if let Some(file) = &self.file {
            return Ok(KeyringFile::new(file.clone()));
        }
        let sources = match &self.dir {
            None => context.sources(),
            Some(dir) if dir.join(CONFIG_FILE).is_file() => {
                Sources { file: Some(dir.join(CONFIG_FILE)), ..context.sources() }
            }
            Some(dir) => return Ok(KeyringFile::new(dir.join(KEYRING_FILE))),
        };
        let config = Config::load(&sources).map_err(|problems| Failure::refused(problems.to_string()))?;
        Ok(config.keyring)
    }
}

impl Keyring {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        match self {
            Self::Add { place, id } => add(context, &place.find(context)?, id.as_deref()),
            Self::Use { place, id } => switch(context, &place.find(context)?, &parse(&id)?),
            Self::Retire { place, id, force } => retire(context, &place.find(context)?, &parse(&id)?, force),
            Self::Status { place } => status(context, &place.find(context)?),
        }
    }
}

fn parse(id: &str) -> Result<PepperId, Failure> {
    PepperId::parse(id).map_err(|error| Failure::usage(format!("the pepper's id {error}")))
}

fn add(context: &mut Context, file: &KeyringFile, id: Option<&str>) -> Result<Exit, Failure> {
    let now = context.now();
    let mut added = None;
    let entropy = context.entropy;
    let named = id.map(parse).transpose()?;
    file.change(|peppers| {
        let id = match named {
            Some(id) => id,
            None => peppers.free_id(now)?,
        };
        peppers.add(id.clone(), now, &entropy)?;
        added = Some(id);
        Ok(())
    })
    .map_err(failed)?;
    let id = added.map(|id| id.to_string()).unwrap_or_default();
    context.out.line(&if context.out.is_quiet() { id.clone() } else { format!("Added the pepper {id}") })?;
    next(
        context,
        &format!(
            "Give the file to every replica and restart them, one after another. Then `keyclasp keyring use {id}` makes new keys under it."
        ),
    );
    Ok(Exit::Done)
}

fn switch(context: &mut Context, file: &KeyringFile, id: &PepperId) -> Result<Exit, Failure> {
    file.change(|peppers| peppers.switch(id)).map_err(failed)?;
    context.out.line(&format!("New keys are made under the pepper {id}"))?;
    next(
        context,
        "Give the file to every replica and restart them. Keys under other peppers go on as they are; each rotation moves one.",
    );
    Ok(Exit::Done)
}

fn retire(context: &mut Context, file: &KeyringFile, id: &PepperId, force: bool) -> Result<Exit, Failure> {
    // What cannot be is said before anybody is asked.
    let mut trial = file.read().map_err(failed)?;
    trial.retire(id).map_err(failed)?;
    if !force {
        let counted = block_on(counted(context))?;
        match counted.peppers.iter().find(|pepper| pepper.id == id.as_str()) {
            // It was started before `use`: the next key that it makes would be under the pepper.
            Some(pepper) if pepper.current => {
                return Err(Failure::refused(format!(
                    "the running service still makes new keys under the pepper {id}: restart every replica after \
                     `keyclasp keyring use` first; one replica was asked, and it cannot speak for the others"
                )));
            }
            Some(v1::PepperStatus { records: Some(0), .. }) => {}
            Some(v1::PepperStatus { records: Some(records), .. }) => {
                return Err(Failure::refused(format!(
                    "{records} keys are still under the pepper {id}: rotate them, or wait until their records are gone; \
                     with --force they never pass again"
                )));
            }
            Some(_) => {
                return Err(Failure::refused(format!(
                    "the running service did not count the keys under the pepper {id}: bring it to the version of this \
                     program, or give --force"
                )));
            }
            None => {
                return Err(Failure::refused(format!(
                    "the running service does not have the pepper {id}, so nobody counted its keys: restart it with \
                     this keyring first, or give --force"
                )));
            }
        }
    }
    file.change(|peppers| peppers.retire(id)).map_err(failed)?;
    context.out.line(&format!("Retired the pepper {id}"))?;
    if !force {
        next(
            context,
            "One replica was asked, and it cannot speak for the others: keys that one makes which was not restarted \
             since `keyclasp keyring use` would not pass any more.",
        );
    }
    next(context, "Give the file to every replica and restart them.");
    Ok(Exit::Done)
}

fn status(context: &mut Context, file: &KeyringFile) -> Result<Exit, Failure> {
    let peppers = file.read().map_err(failed)?;
    let counted = block_on(counted(context));
    let records = |id: &PepperId| {
        let known = counted.as_ref().ok()?.peppers.iter().find(|pepper| pepper.id == id.as_str())?;
        known.records
    };
    if context.out.format() == Format::Table {
        context.out.text(&table(&peppers, records).render())?;
    } else {
        let shown = peppers.entries().iter().map(|entry| v1::PepperStatus {
            id: entry.id.to_string(),
            current: entry.id == *peppers.current(),
            records: records(&entry.id),
        });
        let mut answer = v1::GetStatusResponse { peppers: shown.collect(), ..v1::GetStatusResponse::default() };
        // In the order that the message promises.
        answer.peppers.sort_by_key(|pepper| !pepper.current);
        context.out.answer("GetStatusResponse", &answer, Table::default)?;
    }
    counted.map(|_| Exit::Done).map_err(|failure| failure.and("Keys are not counted; the rest is what the file says."))
}

fn table(peppers: &Peppers, records: impl Fn(&PepperId) -> Option<u64>) -> Table {
    let mut table = Table::with_columns(&["ID", "CREATED", "CURRENT", "KEYS"]);
    for entry in peppers.entries() {
        let created = shown_time(entry.created.map(wire_time).as_ref());
        table.row(vec![
            entry.id.to_string(),
            if created.is_empty() { "-".to_owned() } else { created },
            if entry.id == *peppers.current() { "yes" } else { "no" }.to_owned(),
            records(&entry.id).map_or_else(|| "?".to_owned(), |records| records.to_string()),
        ]);
    }
    table
}

async fn counted(context: &Context) -> Result<v1::GetStatusResponse, Failure> {
    let client = context.connect().await?;
    client.call(client.admin().get_status(client.request(v1::GetStatusRequest { count_records: true }))).await
}

fn next(context: &mut Context, note: &str) {
    if !context.out.is_quiet() {
        context.out.note(note);
    }
}

fn failed(error: KeyringFileError) -> Failure {
    Failure::refused(error.to_string())
}
