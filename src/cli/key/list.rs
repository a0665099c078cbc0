//! `keyclasp key list`.

use clap::{Args, ValueEnum};

use crate::cli::failure::{Exit, Failure};
use crate::cli::{Context, block_on, show, values};
use crate::rpc::proto::v1;

/// Most keys that one answer of the API holds.
const PAGE: usize = 500;

/// Which keys.
#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    /// Only the keys of this owner: user:ID, service-account:ID, client:ID or external:ID.
    #[arg(long, value_parser = values::owner, value_name = "KIND:ID")]
    owner: Option<v1::Owner>,
    /// Only keys with this status.
    #[arg(long, value_enum)]
    status: Option<Status>,
    /// At most this many keys.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Goes on where an earlier list stopped.
    #[arg(long, value_name = "TOKEN", default_value = "")]
    page_token: String,
}

/// Where a key is in its life.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Active,
    Suspended,
    Revoked,
    Expired,
}

impl List {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        let status = match self.status {
            None => v1::KeyStatus::Unspecified,
            Some(Status::Active) => v1::KeyStatus::Active,
            Some(Status::Suspended) => v1::KeyStatus::Suspended,
            Some(Status::Revoked) => v1::KeyStatus::Revoked,
            Some(Status::Expired) => v1::KeyStatus::Expired,
        };
        let mut request = v1::ListKeysRequest {
            realm: context.realm()?,
            owner: self.owner,
            status: status.into(),
            page_size: 0,
            page_token: self.page_token,
        };
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let list = block_on(async {
            let client = context.connect().await?;
            let mut list = v1::ListKeysResponse::default();
            loop {
                let wanted = limit.saturating_sub(list.keys.len()).min(PAGE);
                request.page_size = i32::try_from(wanted).unwrap_or_default();
                let page = client.call(client.keys().list_keys(client.request(request.clone()))).await?;
                list.keys.extend(page.keys);
                request.page_token.clone_from(&page.next_page_token);
                list.next_page_token = page.next_page_token;
                if list.next_page_token.is_empty() || list.keys.len() >= limit {
                    return Ok(list);
                }
            }
        })?;
        let out = &mut context.out;
        if out.is_quiet() {
            for key in &list.keys {
                out.line(&key.id)?;
            }
        } else {
            out.answer("ListKeysResponse", &list, || show::keys(&list.keys))?;
        }
        if !list.next_page_token.is_empty() {
            out.note(&format!("There are more: go on with --page-token {}", list.next_page_token));
        }
        Ok(Exit::Done)
    }
}
