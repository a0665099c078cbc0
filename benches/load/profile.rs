//! How many instructions a call costs, and whose they are: the servers under callgrind, one call at a time.
//! Counts are the same from run to run, where times are not; what the kernel does is not among them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, ensure};

use super::drive::{Load, Method, Pace, count, meet};
use super::http;
use super::proxies::{self, PEERS};
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

/// What a server is asked while it is counted.
#[derive(Debug, Clone, Copy)]
enum Asking {
    Call(Method),
    ForwardAuth,
}

/// Servers of one kind of question: the reference, as this program calls it, and keyclasp as it may be set up, by name,
/// with or without a Redis, with these sections in its configuration.
struct Group {
    title: &'static str,
    asking: Asking,
    reference: (&'static str, &'static str),
    keyclasp: &'static [(&'static str, bool, &'static str)],
}

const GROUPS: [Group; 3] = [
    Group {
        title: "ValidateKey",
        asking: Asking::Call(Method::Valid),
        reference: ("no-op, same runtime", "noop"),
        keyclasp: &[
            (IN_MEMORY, false, ""),
            (LEASED, true, ""),
            (READING, false, NO_MEMORY),
            (FAR_READING, true, NO_MEMORY),
        ],
    },
    Group {
        title: "Check, as Envoy asks",
        asking: Asking::Call(Method::Allowed),
        reference: ("trivial server", "allow"),
        keyclasp: &[(IN_MEMORY, false, "")],
    },
    Group {
        title: "Forward-auth, as nginx asks",
        asking: Asking::ForwardAuth,
        reference: ("constant 200", "constant"),
        keyclasp: &[(IN_MEMORY, false, PEERS)],
    },
];

/// Counts them; answers the page.
pub(crate) async fn profile(run: &Run) -> anyhow::Result<String> {
    let mut text = HEAD.to_owned();
    for (place, group) in GROUPS.iter().enumerate() {
        let (mut profiles, mut asked) = (Vec::new(), None);
        for (turn, (name, far, sections)) in group.keyclasp.iter().enumerate() {
            run.say(&format!("{}: {name}", group.title));
            let redis = if *far { Some(Redis::start(&run.scratch, run.cores.client)?) } else { None };
            let url = redis.as_ref().map(|redis| redis.url.as_str());
            let out = run.scratch.path(&format!("callgrind.{place}.{turn}"));
            let home = Home::init(&run.programs, &run.scratch, &format!("profile-{place}-{turn}"), url)?;
            let home = home.with(sections)?.under(callgrind(&out));
            let (server, _) = home.serve(run.cores.server)?;
            let material = home.prepare(run.warm_keys).await?;
            profiles.push(counted(name, server, &material, group.asking, &out).await?);
            if let Some(redis) = redis {
                redis.process.stop()?;
            }
            asked.get_or_insert(material);
        }
        let material = asked.context("nothing was counted")?;
        let (name, command) = group.reference;
        let out = run.scratch.path(&format!("callgrind.{command}"));
        let load = run.programs.load.to_str().context("the harness lies at a path that is not UTF-8")?;
        let tool = callgrind(&out);
        let words: Vec<&str> = tool.iter().map(String::as_str).chain([load, command]).collect();
        let (program, args) = words.split_first().context("no program")?;
        let log = run.scratch.path(&format!("{command}.log"));
        let server = reference(Path::new(program), args, material.answer_len, run.cores.server, &log)?;
        profiles.insert(0, counted(name, server, &material, group.asking, &out).await?);
        write!(text, "## {}\n\n{}\n", group.title, table(&profiles)?)?;
    }
    Ok(text.trim_end().to_owned() + "\n")
}

/// The tool that counts, and its arguments.
fn callgrind(out: &Path) -> Vec<String> {
    let out = format!("--callgrind-out-file={}", out.display());
    ["valgrind", "--tool=callgrind", &out].map(str::to_owned).to_vec()
}

async fn counted(
    name: &'static str,
    server: Server,
    material: &Material,
    asking: Asking,
    out: &Path,
) -> anyhow::Result<Profile> {
    let pid = server.process.id();
    asking.ask(server.address, material).await?;
    control("-z", pid)?;
    for _ in 0..ROUNDS {
        asking.ask(server.address, material).await?;
    }
    control("-d", pid)?;
    server.process.stop()?;
    // The first dump of the process.
    let mut dump = out.as_os_str().to_owned();
    dump.push(".1");
    let calls = u64::try_from(ROUNDS * material.valid.len())?;
    read(name, &PathBuf::from(dump), count(calls))
}

impl Asking {
    /// Asks about each key once, one after the other.
    async fn ask(self, address: SocketAddr, material: &Material) -> anyhow::Result<()> {
        match self {
            Self::Call(method) => {
                let load = Load {
                    address,
                    token: Arc::clone(&material.token),
                    messages: Arc::clone(method.messages(material)),
                    method,
                    connections: 1,
                    pace: Pace::Closed(1),
                    may_be_refused: false,
                };
                meet(&load).await
            }
            Self::ForwardAuth => {
                let requests = proxies::asked(&material.keys);
                http::meet(&http::Load { address, requests, connections: 1 }).await
            }
        }
    }
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

/// Each beside the first one.
fn table(profiles: &[Profile]) -> anyhow::Result<String> {
    let mut text = String::new();
    let names = OWNERS.iter().map(|(name, _)| *name);
    let columns = ["server", "a call", "×"].into_iter().chain(names).chain(["the rest"]).collect::<Vec<_>>();
    writeln!(text, "| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()))?;
    let reference = profiles.first().map_or(1.0, |reference| reference.all);
    for Profile { name, all, by_owner } in profiles {
        let rest = all - by_owner.iter().sum::<f64>();
        let parts: Vec<String> = by_owner.iter().chain([&rest]).map(|part| number(*part)).collect();
        writeln!(text, "| {name} | {} | {:.2} | {} |", number(*all), all / reference, parts.join(" | "))?;
    }
    Ok(text)
}

const HEAD: &str = "\
# Where the instructions go

Written by `make profile`: instructions of a server for one call, one at a time, counted by callgrind
(so without the kernel, and with digests in software). The same code gives the same counts to within a percent:
what to compare before and after a change of the check path. *Reading*: without memory for records, so the store is
read for each call. Times are in [BENCHMARKS.md](BENCHMARKS.md).

";
