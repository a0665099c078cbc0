//! `keyclasp doctor`: what is wrong with a service. Looks at the configuration and the keyring on
//! this machine, if there are any, and asks the running service about its store.

use super::failure::{Exit, Failure};
use super::output::{Table, done_if};
use super::values::{shown_duration, shown_enum, shown_time};
use super::{Context, block_on};
use crate::config::Config;
use crate::rpc::proto::v1;
use crate::service::status::{Finding, Severity};

pub(super) fn run(context: &mut Context) -> Result<Exit, Failure> {
    let mut findings = local(context);
    let asked = block_on(async {
        let client = context.connect().await?;
        client.call(client.admin().get_status(client.request(v1::GetStatusRequest::default()))).await
    });
    let (mut status, out_of_reach) = match asked {
        Ok(status) => (status, false),
        Err(failure) => {
            let unavailable = failure.exit() == Exit::Unavailable;
            findings.push(not_asked(&failure, unavailable));
            (v1::GetStatusResponse::default(), unavailable)
        }
    };
    // What is local comes first, as what it says may explain the rest.
    status.findings = findings.into_iter().map(wire).chain(status.findings).collect();
    context.out.answer("GetStatusResponse", &status, || table(&status))?;
    if out_of_reach {
        return Ok(Exit::Unavailable);
    }
    Ok(done_if(!status.findings.iter().any(|finding| finding.severity() == v1::FindingSeverity::Error)))
}

/// What the files on this machine say.
fn local(context: &Context) -> Vec<Finding> {
    let sources = context.sources();
    let users = sources.user_dir().is_some_and(|dir| dir.is_dir());
    if sources.file.is_none() && !users {
        return vec![Finding {
            severity: Severity::Info,
            code: "NO_CONFIGURATION",
            meaning: "there is no configuration on this machine; only the running service was asked".to_owned(),
            remedy: "give --config FILE where the service runs".to_owned(),
        }];
    }
    let config = match Config::load(&sources) {
        Ok(config) => config,
        Err(problems) => return problems.iter().map(|one| error("CONFIGURATION", &one.to_string())).collect(),
    };
    let mut findings = config.findings();
    if let Err(problem) = config.keyring.load() {
        findings.extend(problem.to_string().lines().map(|line| error("KEYRING", line)));
    }
    findings
}

/// The texts of problems end with their remedy.
fn error(code: &'static str, text: &str) -> Finding {
    let (meaning, remedy) = text.rsplit_once(": ").unwrap_or((text, ""));
    Finding { severity: Severity::Error, code, meaning: meaning.to_owned(), remedy: remedy.to_owned() }
}

fn not_asked(failure: &Failure, unavailable: bool) -> Finding {
    let (code, remedy) = if unavailable {
        ("SERVICE_UNREACHABLE", "start it with `keyclasp serve`, or name its address with --endpoint")
    } else {
        ("STATUS_REFUSED", "call with the token of an admin: --token-file")
    };
    let meaning = format!("the service did not say how it is: {}", failure.text().replace('\n', " "));
    Finding { severity: Severity::Error, code, meaning, remedy: remedy.to_owned() }
}

fn wire(finding: Finding) -> v1::Finding {
    let severity = match finding.severity {
        Severity::Info => v1::FindingSeverity::Info,
        Severity::Warning => v1::FindingSeverity::Warning,
        Severity::Error => v1::FindingSeverity::Error,
    };
    v1::Finding {
        severity: severity.into(),
        code: finding.code.to_owned(),
        meaning: finding.meaning,
        remedy: finding.remedy,
    }
}

fn table(status: &v1::GetStatusResponse) -> Table {
    let mut fields = Vec::new();
    if !status.version.is_empty() {
        fields.push((
            "service",
            format!("keyclasp {}, started {}", status.version, shown_time(status.started_at.as_ref())),
        ));
    }
    if let Some(store) = &status.store {
        fields.extend([
            (
                "store",
                [store.kind.as_str(), &store.version, &store.role, &store.location]
                    .join(" ")
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
            ("shards", store.shards.to_string()),
            ("answers in", shown_duration(store.latency.as_ref())),
            ("clock offset", shown_duration(store.clock_offset.as_ref())),
            (
                "durable",
                match (store.reachable, store.durable) {
                    (false, _) => String::new(),
                    (true, true) => format!("yes: {}", store.durability),
                    (true, false) => format!("no: {}", store.durability),
                },
            ),
        ]);
    }
    let peppers: Vec<_> = status
        .peppers
        .iter()
        .map(|pepper| if pepper.current { format!("{} (current)", pepper.id) } else { pepper.id.clone() })
        .collect();
    fields.push(("peppers", peppers.join(", ")));
    let mut table = Table::of_fields(fields);
    if status.findings.is_empty() {
        table.below("All is well.");
    }
    for finding in &status.findings {
        let severity = shown_enum(finding.severity().as_str_name(), "FINDING_SEVERITY_");
        table.below(format!("{severity}  {}", finding.code));
        table.below(format!("  {}", finding.meaning));
        if !finding.remedy.is_empty() {
            table.below(format!("  → {}", finding.remedy));
        }
    }
    table
}
