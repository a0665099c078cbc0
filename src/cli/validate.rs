//! `keyclasp validate`: may this key pass?

use clap::Args;

use super::failure::{Exit, Failure};
use super::input::KeyInput;
use super::output::{Table, done_if};
use super::values::{shown_enum, shown_owner, shown_time};
use super::{Context, block_on};
use crate::rpc::proto::v1;

/// What the key must be good for. The realm is optional here.
#[derive(Debug, Args)]
pub(super) struct Validate {
    #[command(flatten)]
    key: KeyInput,
    /// A scope that it must hold or imply; repeat for more.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// The address from which it was presented.
    #[arg(long, value_name = "IP", default_value = "", hide_default_value = true)]
    address: String,
    /// The principal that presented it.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    principal: String,
}

impl Validate {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        let key = self.key.read(&mut context.out)?;
        let request = v1::ValidateKeyRequest {
            api_key: key.expose().to_owned(),
            realm: context.any_realm(),
            required_scopes: self.scopes,
            source_address: self.address,
            source_principal: self.principal,
        };
        let answer = block_on(async {
            let client = context.connect().await?;
            client.call(client.keys().validate_key(client.request(request))).await
        })?;
        let out = &mut context.out;
        if out.is_quiet() {
            out.line(answer.outcome().as_str_name().trim_start_matches("OUTCOME_"))?;
        } else {
            out.answer("ValidateKeyResponse", &answer, || table(&answer))?;
        }
        Ok(done_if(answer.outcome() == v1::Outcome::Valid))
    }
}

fn table(answer: &v1::ValidateKeyResponse) -> Table {
    let mut fields = vec![
        ("outcome", shown_enum(answer.outcome().as_str_name(), "OUTCOME_")),
        ("missing scopes", answer.missing_scopes.join(" ")),
        ("message", answer.message.clone()),
    ];
    if let Some(key) = &answer.key {
        fields.extend([
            ("key", key.id.clone()),
            ("name", key.name.clone()),
            ("realm", key.realm.clone()),
            ("owner", shown_owner(key.owner.as_ref())),
            ("scopes", key.scopes.join(" ")),
            ("expires", shown_time(key.expires_at.as_ref())),
        ]);
    }
    Table::of_fields(fields)
}
