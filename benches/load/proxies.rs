//! What a check costs that a proxy asks for: keyclasp behind a real Envoy, and asked by forward-auth, beside
//! servers that decide nothing.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::Run;
use super::drive::median;
use super::http::{self, Figures, Load};
use super::process::{Process, free_address, listens};
use super::report::{Report, number, times};
use super::servers::{Home, REALM, reference};

/// Connections of clients.
const LEVELS: [usize; 2] = [1, 32];
/// What a check may cost beside a trivial one.
const TARGET: f64 = 1.10;

/// What lets this machine ask by forward-auth.
pub(crate) const PEERS: &str = "\n[forward_auth]\npeers = [\"127.0.0.0/8\"]\n";

/// Measures and reports both.
pub(crate) async fn proxies(run: &Run, report: &mut Report) -> anyhow::Result<()> {
    let home = Home::init(&run.programs, &run.scratch, "proxies", None)?.with(PEERS)?;
    let (server, _) = home.serve(run.cores.server)?;
    let token = home.prepare(1).await?.token;
    let keys: Vec<_> = home.make(run.warm_keys, 8).await?.into_iter().map(|key| key.api_key).collect();
    let log = run.scratch.path("references.log");
    let allow = reference(&run.programs.load, &["allow"], 0, run.cores.server, &log)?;
    let constant = reference(&run.programs.load, &["constant"], 0, run.cores.server, &log)?;
    envoy(run, report, &keys, &token, [(allow.process.id(), allow.address), (server.process.id(), server.address)])
        .await?;
    let asked = [(constant.process.id(), constant.address), (server.process.id(), server.address)];
    forward_auth(run, report, &keys, asked).await?;
    for server in [server, allow, constant] {
        server.process.stop()?;
    }
    Ok(())
}

/// A request with each of the keys.
fn requests(keys: &[String], line: &str, more: &str) -> Arc<[Vec<u8>]> {
    let request = |key: &String| {
        format!(
            "GET {line} HTTP/1.1\r\nhost: api.example.com\r\nuser-agent: curl/8.5.0\r\naccept: */*\r\n\
             x-request-id: 0b9d3c0e-6f5a-4c1d-9a51-000000000001\r\n{more}x-api-key: {key}\r\n\r\n"
        )
    };
    keys.iter().map(|key| request(key).into_bytes()).collect()
}

/// What nginx asks about requests with each of the keys.
pub(crate) fn asked(keys: &[String]) -> Arc<[Vec<u8>]> {
    let line = format!("/forward-auth?realm={REALM}&scopes=clusters:read&style=nginx");
    requests(keys, &line, "x-original-method: GET\r\nx-original-uri: /orders?since=1\r\nx-real-ip: 192.0.2.7\r\n")
}

/// One Envoy worker before nothing, the trivial server, and keyclasp.
async fn envoy(
    run: &Run,
    report: &mut Report,
    keys: &[String],
    token: &str,
    [allow, keyclasp]: [(u32, SocketAddr); 2],
) -> anyhow::Result<()> {
    let listeners = [free_address()?, free_address()?, free_address()?];
    let [nothing, trivial, checked] = listeners;
    let config = json!({"static_resources": {
        "listeners": [
            listener("nothing", nothing, None),
            listener("trivial", trivial, Some(token)),
            listener("keyclasp", checked, Some(token)),
        ],
        "clusters": [cluster("trivial", allow.1), cluster("keyclasp", keyclasp.1)],
    }});
    let path = run.scratch.path("envoy.json");
    std::fs::write(&path, config.to_string())?;
    let (program, log) = (Path::new("envoy"), run.scratch.path("envoy.log"));
    // With the clients: the servers that are compared have a core for themselves.
    let mut envoy = Process::start(run.cores.client, program, &log, |command| {
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]).arg(&path);
    })?;
    envoy.wait(|| listeners.iter().all(|address| listens(*address))).with_context(|| {
        format!(
            "Envoy does not start; `scripts/setup.sh` installs it: {}",
            std::fs::read_to_string(&log).unwrap_or_default()
        )
    })?;
    let requests = requests(keys, "/orders?since=1", "");
    let contenders = [
        ("Envoy alone", nothing, vec![envoy.id()]),
        ("trivial server", trivial, vec![envoy.id(), allow.0]),
        ("keyclasp", checked, vec![envoy.id(), keyclasp.0]),
    ];
    let mut text = String::new();
    for connections in LEVELS {
        let measured =
            turns(run, &contenders, |address| Load { address, requests: Arc::clone(&requests), connections });
        let measured = measured.await?;
        let plural = if connections == 1 { "" } else { "s" };
        write!(text, "\n### {connections} connection{plural}\n\n{HEAD}")?;
        let server = |figures: &Figures| figures.cpu.get(1).copied().unwrap_or_default();
        rows(&mut text, &contenders, &measured, 1, server)?;
        let ratio = against(&measured, 2, 1, server);
        let what = format!("ext_authz Check through Envoy, {connections} connection{plural}, against a trivial server");
        report.target(&format!("{what}: CPU a check"), "≤ 1.10", format!("{ratio:.2}"), ratio <= TARGET);
    }
    report.section("ext_authz behind a real Envoy", ENVOY, &text);
    envoy.stop()
}

/// keyclasp and a server that answers 200, asked as nginx asks.
async fn forward_auth(
    run: &Run,
    report: &mut Report,
    keys: &[String],
    [constant, keyclasp]: [(u32, SocketAddr); 2],
) -> anyhow::Result<()> {
    let requests = asked(keys);
    let contenders = [("constant 200", constant.1, vec![constant.0]), ("keyclasp", keyclasp.1, vec![keyclasp.0])];
    let mut text = String::new();
    for connections in LEVELS {
        let measured =
            turns(run, &contenders, |address| Load { address, requests: Arc::clone(&requests), connections });
        let measured = measured.await?;
        let plural = if connections == 1 { "" } else { "s" };
        write!(text, "\n### {connections} connection{plural}\n\n{HEAD}")?;
        let server = |figures: &Figures| figures.cpu.first().copied().unwrap_or_default();
        rows(&mut text, &contenders, &measured, 0, server)?;
        let ratio = against(&measured, 1, 0, server);
        let what = format!("forward-auth, {connections} connection{plural}, against a constant 200");
        report.target(&format!("{what}: CPU a check"), "≤ 1.10", format!("{ratio:.2}"), ratio <= TARGET);
    }
    report.section("forward-auth", FORWARD_AUTH, &text);
    Ok(())
}

type Contender = (&'static str, SocketAddr, Vec<u32>);

/// Measures all of them in turns; another one begins each time.
async fn turns(
    run: &Run,
    contenders: &[Contender],
    load: impl Fn(SocketAddr) -> Load,
) -> anyhow::Result<Vec<Vec<Figures>>> {
    for (_, address, _) in contenders {
        http::meet(&load(*address)).await?;
    }
    let mut measured = vec![Vec::new(); contenders.len()];
    for repetition in 0..run.repetitions {
        for turn in 0..contenders.len() {
            let place = (turn + repetition) % contenders.len();
            if let (Some((name, address, pids)), Some(figures)) = (contenders.get(place), measured.get_mut(place)) {
                let one = http::run(&load(*address), pids, http::span(run.measured)).await?;
                run.say(&format!("{name}: {:.0}/s, p50 {:.0} µs, {:.2?} µs CPU", one.rate, one.p50, one.cpu));
                figures.push(one);
            }
        }
    }
    Ok(measured)
}

/// The median of the ratios of runs of the same repetition.
fn against(measured: &[Vec<Figures>], one: usize, other: usize, of: impl Fn(&Figures) -> f64) -> f64 {
    let figures = |place: usize| measured.get(place).into_iter().flatten();
    median(figures(one).zip(figures(other)).map(|(one, other)| of(one) / of(other)))
}

fn rows(
    text: &mut String,
    contenders: &[Contender],
    measured: &[Vec<Figures>],
    reference: usize,
    server: impl Fn(&Figures) -> f64 + Copy,
) -> std::fmt::Result {
    for (place, ((name, ..), figures)) in contenders.iter().zip(measured).enumerate() {
        let of = |of: &dyn Fn(&Figures) -> f64| median(figures.iter().map(of));
        let (cpu, ratio) = (of(&server), against(measured, place, reference, server));
        let (cpu, ratio) = if cpu > 0.0 {
            (format!("{cpu:.2} µs"), format!("{ratio:.2}"))
        } else {
            ("–".to_owned(), "–".to_owned())
        };
        writeln!(
            text,
            "| {name} | {} | {} | {} | {cpu} | {:.2} | {:.2} | {:.2} | {ratio} |",
            number(of(&|one| one.rate)),
            times(of(&|one| one.p50)),
            times(of(&|one| one.p99)),
            against(measured, place, reference, |one| one.rate),
            against(measured, place, reference, |one| one.p50),
            against(measured, place, reference, |one| one.p99),
        )?;
    }
    Ok(())
}

/// A listener whose one route answers 200 by itself, once whoever is asked allows it.
fn listener(name: &str, address: SocketAddr, token: Option<&str>) -> Value {
    let of = |kind: &str| format!("type.googleapis.com/envoy.extensions.filters.{kind}");
    let filter = "envoy.filters.http.ext_authz";
    let mut filters = Vec::new();
    if let Some(token) = token {
        filters.push(json!({"name": filter, "typed_config": {
            "@type": of("http.ext_authz.v3.ExtAuthz"),
            "transport_api_version": "V3",
            "grpc_service": {
                "envoy_grpc": {"cluster_name": name},
                "timeout": "5s",
                "initial_metadata": [{"key": "authorization", "value": format!("Bearer {token}")}],
            },
        }}));
    }
    filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {"@type": of("http.router.v3.Router")}}));
    let extensions = json!({"keyclasp.realm": REALM, "keyclasp.scopes": "clusters:read"});
    let mut host = json!({
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}],
    });
    if let (Some(_), Some(host)) = (token, host.as_object_mut()) {
        let route = json!({
            "@type": of("http.ext_authz.v3.ExtAuthzPerRoute"),
            "check_settings": {"context_extensions": extensions},
        });
        host.insert("typed_per_filter_config".to_owned(), json!({ filter: route }));
    }
    json!({
        "name": name,
        "address": socket(address),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": of("network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": name,
                "route_config": {"virtual_hosts": [host]},
                "http_filters": filters,
            },
        }]}],
    })
}

fn cluster(name: &str, address: SocketAddr) -> Value {
    let http2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "name": name,
        "type": "STATIC",
        "typed_extension_protocol_options": {http2: {
            "@type": format!("type.googleapis.com/{http2}"),
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
        "load_assignment": {"cluster_name": name, "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": socket(address)}}]},
        ]},
    })
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

const HEAD: &str = "\
| server | requests/s | p50 | p99 | CPU a check | requests × | p50 × | p99 × | CPU × |
|---|---|---|---|---|---|---|---|---|
";

const ENVOY: &str = "\
One Envoy worker on the client's core, whose route answers by itself, so that the check is all that it waits for; the
server that it asks is on the other core. *Trivial* is a tonic server on the same runtime and allocator that decodes
the request, decides nothing and sets three headers. keyclasp knows each key after its first time, looks for keys in
five places, checks realm and scope, sets five headers, strips the key and writes metadata. Ratios are of runs of the
same repetition, × the trivial server. CPU is that of the server that was asked, for a check.";

const FORWARD_AUTH: &str = "\
Asked over HTTP/1.1 as nginx's auth_request asks, without nginx: client on one core, server on the other. *Constant* is
a hyper server on the same runtime and allocator that answers 200. Ratios are of runs of the same repetition.";
