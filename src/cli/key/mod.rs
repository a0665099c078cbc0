//! `keyclasp key …`: the life of keys.

mod create;
mod get;
mod list;
mod resume;
mod revoke;
mod revoke_all;
mod rotate;
mod suspend;
mod update;

use clap::Subcommand;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Out;
use super::show;
use crate::rpc::proto::v1;

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Makes a key, and shows its text this once.
    Create(create::Create),
    /// Shows a key.
    Get(get::Get),
    /// Lists the keys of a realm or of one owner, oldest first.
    List(list::List),
    /// Changes fields of a key.
    Update(update::Update),
    /// Replaces a key by a new one with the same grants, and shows its text this once.
    Rotate(rotate::Rotate),
    /// Refuses a key until it is resumed.
    Suspend(suspend::Suspend),
    /// Lifts what `suspend` did.
    Resume(resume::Resume),
    /// Ends a key for ever.
    Revoke(revoke::Revoke),
    /// Ends all keys of a realm that match.
    RevokeAll(revoke_all::RevokeAll),
}

impl Key {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        match self {
            Self::Create(create) => create.run(context),
            Self::Get(get) => get.run(context),
            Self::List(list) => list.run(context),
            Self::Update(update) => update.run(context),
            Self::Rotate(rotate) => rotate.run(context),
            Self::Suspend(suspend) => suspend.run(context),
            Self::Resume(resume) => resume.run(context),
            Self::Revoke(revoke) => revoke.run(context),
            Self::RevokeAll(revoke_all) => revoke_all.run(context),
        }
    }
}

/// Shows a key that was changed: its id alone, all of it, or the answer.
fn changed(
    out: &mut Out,
    name: &str,
    answer: &impl prost::Message,
    key: Option<&v1::Key>,
    fence: Option<&v1::Fence>,
) -> Result<Exit, Failure> {
    let key = key.cloned().unwrap_or_default();
    if out.is_quiet() {
        out.line(&key.id)?;
    } else {
        out.answer(name, answer, || show::key(&key))?;
    }
    let fence = show::fence(fence);
    if !fence.is_empty() {
        out.note(&fence);
    }
    Ok(Exit::Done)
}
