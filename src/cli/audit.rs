//! `keyclasp audit …`: what happened to keys.

use clap::{Args, Subcommand, ValueEnum};

use super::failure::{Exit, Failure};
use super::output::Table;
use super::values::{self, When, key_id, shown_enum, shown_owner, shown_time, wire_time};
use super::{Context, block_on};
use crate::rpc::proto::v1;

/// Most events that one answer of the API holds.
const PAGE: usize = 500;

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Lists events that match every filter, oldest first.
    List(List),
}

/// Which events. Without a realm: of every realm in which the caller is an auditor.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only events of the key with this id.
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Only events of this owner's keys: user:ID, service-account:ID, client:ID or external:ID.
    #[arg(long, value_parser = values::owner, value_name = "KIND:ID")]
    owner: Option<v1::Owner>,
    /// Only what this caller did.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    actor: String,
    /// Only this action.
    #[arg(long, value_enum)]
    action: Option<Action>,
    /// Only events since this time; a duration means so long ago.
    #[arg(long, value_parser = values::when, value_name = "TIME")]
    since: Option<When>,
    /// Only events before this time; a duration means so long ago.
    #[arg(long, value_parser = values::when, value_name = "TIME")]
    before: Option<When>,
    /// The newest first.
    #[arg(long)]
    newest: bool,
    /// At most this many events.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Goes on where an earlier list stopped.
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    page_token: String,
}

/// What was done.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    Created,
    Updated,
    Rotated,
    Suspended,
    Resumed,
    Revoked,
}

impl Audit {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        match self {
            Self::List(list) => list.run(context),
        }
    }
}

impl List {
    fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        let action = match self.action {
            None => v1::EventAction::Unspecified,
            Some(Action::Created) => v1::EventAction::Created,
            Some(Action::Updated) => v1::EventAction::Updated,
            Some(Action::Rotated) => v1::EventAction::Rotated,
            Some(Action::Suspended) => v1::EventAction::Suspended,
            Some(Action::Resumed) => v1::EventAction::Resumed,
            Some(Action::Revoked) => v1::EventAction::Revoked,
        };
        let now = context.now();
        let ago = |when: When| wire_time(when.ago(now));
        let mut request = v1::ListEventsRequest {
            realm: context.any_realm(),
            key_id: self.key.as_deref().map(key_id).transpose()?.unwrap_or_default(),
            owner: self.owner,
            actor: self.actor,
            action: action.into(),
            since: self.since.map(ago),
            before: self.before.map(ago),
            newest_first: self.newest,
            page_size: 0,
            page_token: self.page_token,
        };
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let list = block_on(async {
            let client = context.connect().await?;
            let mut list = v1::ListEventsResponse::default();
            loop {
                let wanted = limit.saturating_sub(list.events.len()).min(PAGE);
                request.page_size = i32::try_from(wanted).unwrap_or_default();
                let page = client.call(client.audit().list_events(client.request(request.clone()))).await?;
                list.events.extend(page.events);
                request.page_token.clone_from(&page.next_page_token);
                list.next_page_token = page.next_page_token;
                if list.next_page_token.is_empty() || list.events.len() >= limit {
                    return Ok(list);
                }
            }
        })?;
        let out = &mut context.out;
        if out.is_quiet() {
            for event in &list.events {
                out.line(&event.id)?;
            }
        } else {
            out.answer("ListEventsResponse", &list, || table(&list.events))?;
        }
        if !list.next_page_token.is_empty() {
            out.note(&format!("There are more: go on with --page-token {}", list.next_page_token));
        }
        Ok(Exit::Done)
    }
}

fn table(events: &[v1::Event]) -> Table {
    let mut table = Table::with_columns(&["TIME", "ACTION", "KEY", "REALM", "OWNER", "BY", "DETAILS"]);
    for event in events {
        let mut details = Vec::new();
        if !event.fields.is_empty() {
            details.push(event.fields.join(" "));
        }
        if !event.rotated_to.is_empty() {
            details.push(format!("to {}", event.rotated_to));
        }
        if !event.reason.is_empty() {
            details.push(event.reason.clone());
        }
        table.row(vec![
            shown_time(event.at.as_ref()),
            shown_enum(event.action().as_str_name(), "EVENT_ACTION_"),
            event.key_id.clone(),
            event.realm.clone(),
            shown_owner(event.owner.as_ref()),
            event.actor.clone(),
            details.join("; "),
        ]);
    }
    table
}
