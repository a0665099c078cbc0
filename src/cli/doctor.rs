//! `keyclasp doctor`: what is wrong with a service. Looks at the configuration and the keyring on
//! this machine, if there are any, and asks the running service about its store and its leases.

use std::time::Duration;

use super::failure::{Exit, Failure};
use super::output::{Table, done_if};
use super::values::{shown_duration, shown_enum, shown_time};
use super::{Context, block_on};
use crate::config::Config;
use crate::rpc::proto::v1;
use crate::service::status::{Finding, Severity};

/// Characters of an epoch that tell it from others at a glance; JSON has all of them.
const EPOCH: usize = 12;

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
    status.findings = findings.into_iter().map(v1::Finding::from).chain(status.findings).collect();
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
    if let Some(store) = &status.store
        && !store.wait.is_empty()
    {
        let of_all = if store.replicas == 0 { String::new() } else { format!(" of {}", store.replicas) };
        fields.push(("replicas", format!("{}{of_all} connected; {}", store.replicas_connected, store.wait)));
    }
    if let Some(cache) = &status.cache {
        fields.push(("memory", memory(cache)));
    }
    if let Some(fence) = &status.fence {
        fields.extend(leases(fence));
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

fn memory(cache: &v1::CacheStatus) -> String {
    match (cache.room, cache.records) {
        (0, _) => "nothing is kept: the store is read for each check".to_owned(),
        (room, records) => {
            let noun = if records == 1 { "record" } else { "records" };
            format!("{records} {noun}, {} of {}", shown_bytes(cache.bytes), shown_bytes(room))
        }
    }
}

/// Leases, epochs, logs and members: of all shards together, as findings name those that stand out.
fn leases(fence: &v1::FenceStatus) -> Vec<(&'static str, String)> {
    let shards = &fence.shards;
    let term = shown_duration(fence.term.as_ref());
    let left: Vec<_> = shards.iter().filter_map(|shard| Duration::try_from(*shard.lease_left.as_ref()?).ok()).collect();
    let lease = match left.iter().min() {
        None => format!("none held; term {term}"),
        Some(least) => {
            let of_all = if shards.len() == 1 {
                String::new()
            } else {
                format!(" in {} of {} shards", left.len(), shards.len())
            };
            format!("held{of_all}, {} left; term {term}", shown_span(*least))
        }
    };
    let unsettled = shards.iter().filter(|shard| !shard.settled && !shard.epoch.is_empty()).count();
    let settled = match (unsettled, shards.len()) {
        (0, _) => String::new(),
        (_, 1) => "; not settled yet".to_owned(),
        (some, all) => format!("; {some} of {all} not settled yet"),
    };
    let ages = shards.iter().filter_map(|shard| Duration::try_from(*shard.epoch_age.as_ref()?).ok());
    let epoch = ages.min().map_or_else(String::new, |youngest| {
        let since = shown_span(Duration::from_secs(youngest.as_secs()));
        let name = match shards.as_slice() {
            [only] => only.epoch.chars().take(EPOCH).collect(),
            _ => "the latest".to_owned(),
        };
        format!("{name} since {since}{settled}")
    });
    let lag: Vec<_> = shards.iter().map(|shard| shard.log_lag).collect();
    let members: Vec<_> = shards.iter().map(|shard| shard.members).collect();
    let mut fields = vec![
        ("lease", lease),
        ("epoch", epoch),
        ("log lag", lag.iter().max().map(ToString::to_string).unwrap_or_default()),
        ("members", range(&members)),
    ];
    if let Some(waits) = &fence.waits {
        fields.push(("fenced", waited(waits)));
    }
    fields
}

fn range(members: &[u32]) -> String {
    match (members.iter().min(), members.iter().max()) {
        (Some(least), Some(most)) if least == most => least.to_string(),
        (Some(least), Some(most)) => format!("{least} to {most}, by shard"),
        _ => String::new(),
    }
}

fn waited(waits: &v1::FenceWaits) -> String {
    let v1::FenceWaits { acknowledged, lapsed, time_up, unknown, average, longest } = waits;
    let count = acknowledged + lapsed + time_up + unknown;
    if count == 0 {
        return "no change yet that takes something away".to_owned();
    }
    let outcomes = [
        (acknowledged, "confirmed by every replica"),
        (lapsed, "after a silent replica's lease"),
        (time_up, "given up by the caller"),
        (unknown, "cut off by a new epoch"),
    ];
    let outcomes: Vec<_> =
        outcomes.iter().filter(|(count, _)| **count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let [average, longest] = [average, longest].map(|span| {
        let span = span.and_then(|span| Duration::try_from(span).ok());
        span.map_or_else(String::new, shown_span)
    });
    format!("{}; {average} on average, {longest} at most", outcomes.join(", "))
}

/// A duration for people: to the millisecond, short ones to a hundredth of that.
fn shown_span(span: Duration) -> String {
    let unit = if span < Duration::from_millis(10) { 10_000 } else { 1_000_000 };
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_nanos(nanos - nanos % unit)).to_string()
}

fn shown_bytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a size for people to look at")]
    let in_unit = |unit: u64| bytes as f64 / unit as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", in_unit(1024)),
        _ => format!("{:.1} MiB", in_unit(1_048_576)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::values::wire_duration;

    fn shard(left: Option<u64>, members: u32) -> v1::ShardStatus {
        v1::ShardStatus {
            epoch: "0123456789abcdef".to_owned(),
            epoch_age: Some(wire_duration(Duration::from_millis(61_500))),
            lease_left: left.map(|millis| wire_duration(Duration::from_millis(millis))),
            members,
            settled: true,
            ..v1::ShardStatus::default()
        }
    }

    fn shown(shards: Vec<v1::ShardStatus>, waits: v1::FenceWaits) -> String {
        let term = Some(wire_duration(Duration::from_secs(5)));
        let status = v1::FenceStatus { term, shards, waits: Some(waits), ..v1::FenceStatus::default() };
        Table::of_fields(leases(&status)).render()
    }

    #[test]
    fn leases_of_one_shard_and_of_many() {
        let none = v1::FenceWaits::default();
        assert_eq!(
            shown(vec![shard(Some(4_200), 2)], none),
            "lease    held, 4s 200ms left; term 5s\nepoch    0123456789ab since 1m 1s\nlog lag  0\nmembers  2\n\
             fenced   no change yet that takes something away\n"
        );
        let lagging = v1::ShardStatus { log_lag: 7, settled: false, ..shard(None, 1) };
        let waits = v1::FenceWaits {
            acknowledged: 11,
            lapsed: 1,
            average: Some(wire_duration(Duration::from_micros(1_503))),
            longest: Some(wire_duration(Duration::from_micros(5_001_501))),
            ..v1::FenceWaits::default()
        };
        assert_eq!(
            shown(vec![shard(Some(4_200), 2), lagging], waits),
            "lease    held in 1 of 2 shards, 4s 200ms left; term 5s\n\
             epoch    the latest since 1m 1s; 1 of 2 not settled yet\nlog lag  7\nmembers  1 to 2, by shard\n\
             fenced   11 confirmed by every replica, 1 after a silent replica's lease; 1ms 500us on average, 5s 1ms at most\n"
        );
        assert!(shown(vec![v1::ShardStatus::default()], none).starts_with("lease    none held; term 5s\nlog lag"));
    }

    #[test]
    fn memory_for_people() {
        let shown = |records, bytes, room| memory(&v1::CacheStatus { records, bytes, room });
        assert_eq!(shown(0, 0, 0), "nothing is kept: the store is read for each check");
        assert_eq!(shown(1, 900, 64 << 20), "1 record, 900 B of 64.0 MiB");
        assert_eq!(shown(7, 2560, 64 << 20), "7 records, 2.5 KiB of 64.0 MiB");
    }
}
