//! How many instructions a call costs, and whose they are: the servers under callgrind, one call at a time.
//! Counts are the same from run to run, where times are not; what the kernel does is not among them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::compare::VALID;
use super::drive::{Load, Pace, count, meet};
use super::report::number;
use super::servers::{Home, Material, Redis, Server, reference};
use super::{FAR_READING, IN_MEMORY, LEASED, NO_MEMORY, READING, Run};

/// How often each key is asked for while it is counted.
const ROUNDS: usize = 5;
/// Whose code has a column of its own: beginnings of the paths of functions.
const OWNERS: [(&str, &[&str]); 7] = [
    ("keyclasp", &["keyclasp"]),
    ("digests", &["sha2", "hmac", "digest"]),
    ("h2, http", &["h2", "http", "bytes"]),
    ("hyper, tonic", &["hyper", "hyper_util", "tonic", "tower", "prost"]),
    ("tokio", &["tokio", "mio", "tokio_util"]),
    ("memory", &["memory"]),
    ("Redis' client, redb", &["redis", "redb"]),
];

/// What one call costs a server, in instructions, by whose code it is; the rest comes last.
#[derive(Debug)]
struct Profile {
    name: &'static str,
    all: f64,
    by_owner: [f64; OWNERS.len()],
}

/// Counts them; answers the page.
pub(crate) async fn profile(run: &Run) -> anyhow::Result<String> {
    let mut profiles = Vec::new();
    let mut asked = None;
    for (place, (name, far, sections)) in
        [(IN_MEMORY, false, ""), (LEASED, true, ""), (READING, false, NO_MEMORY), (FAR_READING, true, NO_MEMORY)]
            .into_iter()
            .enumerate()
    {
        run.say(name);
        let redis = if far { Some(Redis::start(&run.scratch, run.cores.client)?) } else { None };
        let url = redis.as_ref().map(|redis| redis.url.as_str());
        let out = run.scratch.path(&format!("callgrind.{place}"));
        let home = Home::init(&run.programs, &run.scratch, &format!("profile-{place}"), url)?.with(sections)?;
        let home = home.under(callgrind(&out));
        let (server, _) = home.serve(run.cores.server)?;
        let material = home.prepare(run.warm_keys).await?;
        profiles.push(counted(name, server, &material, &out).await?);
        if let Some(redis) = redis {
            redis.process.stop()?;
        }
        asked.get_or_insert(material);
    }
    let material = asked.context("nothing was counted")?;
    let out = run.scratch.path("callgrind.noop");
    let load = run.programs.load.to_str().context("the harness lies at a path that is not UTF-8")?;
    let tool = callgrind(&out);
    let words: Vec<&str> = tool.iter().map(String::as_str).chain([load, "noop"]).collect();
    let (program, args) = words.split_first().context("no program")?;
    let log = run.scratch.path("noop.log");
    let noop = reference(Path::new(program), args, material.answer_len, run.cores.server, &log)?;
    profiles.insert(0, counted("no-op, same runtime", noop, &material, &out).await?);
    page(&profiles)
}

/// The tool that counts, and its arguments.
fn callgrind(out: &Path) -> Vec<String> {
    let out = format!("--callgrind-out-file={}", out.display());
    ["valgrind", "--tool=callgrind", &out].map(str::to_owned).to_vec()
}

async fn counted(name: &'static str, server: Server, material: &Material, out: &Path) -> anyhow::Result<Profile> {
    let load = Load {
        address: server.address,
        token: material.token.clone(),
        messages: material.valid.clone(),
        outcome: VALID,
        connections: 1,
        pace: Pace::Closed(1),
        may_be_refused: false,
    };
    let pid = server.process.id();
    meet(&load).await?;
    control("-z", pid)?;
    for _ in 0..ROUNDS {
        meet(&load).await?;
    }
    control("-d", pid)?;
    server.process.stop()?;
    // The first dump of the process.
    let mut dump = out.as_os_str().to_owned();
    dump.push(".1");
    let calls = u64::try_from(ROUNDS * material.valid.len())?;
    read(name, &PathBuf::from(dump), count(calls))
}

fn control(what: &str, pid: u32) -> anyhow::Result<()> {
    let output = Command::new("callgrind_control").arg(what).arg(pid.to_string()).output()?;
    ensure!(output.status.success(), "callgrind_control: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Reads what `callgrind_annotate` says of a dump, a function a line: `1,234 (0.1%)  file:function [object]`.
fn read(name: &'static str, dump: &Path, calls: f64) -> anyhow::Result<Profile> {
    let output = Command::new("callgrind_annotate").args(["--auto=no", "--threshold=100"]).arg(dump).output()?;
    ensure!(output.status.success(), "callgrind_annotate: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut profile = Profile { name, all: 0.0, by_owner: [0.0; OWNERS.len()] };
    for line in text.lines() {
        let Some((instructions, rest)) = line.trim().split_once(' ') else { continue };
        let Ok(instructions) = instructions.replace(',', "").parse::<f64>() else { continue };
        let instructions = instructions / calls;
        if rest.ends_with("PROGRAM TOTALS") {
            profile.all = instructions;
        }
        // What was running when the counting began is said to have done everything.
        if rest.starts_with("(100.0%)") {
            continue;
        }
        let Some((_, function)) = rest.split_once(':') else { continue };
        let owner = owner(function);
        // The allocator's functions and libc's are no paths.
        let owner =
            if ["mi_", "_mi_", "__mem"].iter().any(|start| owner.starts_with(start)) { "memory" } else { owner };
        let of = OWNERS.iter().position(|(_, names)| names.contains(&owner));
        if let Some(sum) = of.and_then(|of| profile.by_owner.get_mut(of)) {
            *sum += instructions;
        }
    }
    ensure!(profile.all > 0.0, "callgrind_annotate has no total:\n{text}");
    Ok(profile)
}

/// The crate of a function: the first word of its path, or the beginning of what is no path.
fn owner(function: &str) -> &str {
    let path = function.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '_');
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    path.get(..end).unwrap_or_default()
}

fn page(profiles: &[Profile]) -> anyhow::Result<String> {
    let mut text = HEAD.to_owned();
    let names = OWNERS.iter().map(|(name, _)| *name);
    let columns = ["server", "a call", "× no-op"].into_iter().chain(names).chain(["the rest"]).collect::<Vec<_>>();
    writeln!(text, "| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()))?;
    let noop = profiles.first().map_or(1.0, |noop| noop.all);
    for Profile { name, all, by_owner } in profiles {
        let rest = all - by_owner.iter().sum::<f64>();
        let parts: Vec<String> = by_owner.iter().chain([&rest]).map(|part| number(*part)).collect();
        writeln!(text, "| {name} | {} | {:.2} | {} |", number(*all), all / noop, parts.join(" | "))?;
    }
    Ok(text)
}

const HEAD: &str = "\
# Where the instructions go

Written by `make profile`: instructions of a server for one ValidateKey, one call at a time, counted by callgrind
(so without the kernel, and with digests in software). The same code gives the same counts to within a percent:
what to compare before and after a change of the check path. *Reading*: without memory for records, so the store is
read for each call. Times are in [BENCHMARKS.md](BENCHMARKS.md).

";
