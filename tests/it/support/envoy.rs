//! A real Envoy of one or several tests: with the configuration that `keyclasp envoy-config` prints, on free loopback
//! ports, stopped by its process id when it is dropped. `scripts/setup.sh` installs it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_yaml_ng::Value;

use super::server::{http_get, program};
use super::{TempDir, eventually};

/// Longest that Envoy may take to come up, on a machine that compiles something else.
const START: Duration = Duration::from_secs(60);

/// A configuration: what `keyclasp envoy-config --full` prints, and what a test needs beside that.
#[derive(Debug, Clone)]
pub(crate) struct Config(Value);

impl Config {
    /// What `keyclasp envoy-config --full` prints with these arguments, listening on ports of the system's choice.
    pub(crate) fn printed(arguments: &[&str]) -> Self {
        let mut command = program();
        command.args(["envoy-config", "--full", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(serde_yaml_ng::from_slice(&output.stdout).unwrap())
    }

    /// The filter chain of the listener.
    pub(crate) fn chain(&mut self) -> &mut Value {
        &mut self.0["static_resources"]["listeners"][0]["filter_chains"][0]
    }

    /// The HTTP connection manager.
    pub(crate) fn manager(&mut self) -> &mut Value {
        &mut self.chain()["filters"][0]["typed_config"]
    }

    /// The ext_authz filter.
    pub(crate) fn authorization(&mut self) -> &mut Value {
        let filters = self.manager()["http_filters"].as_sequence_mut().unwrap();
        let filter = filters.iter_mut().find(|filter| filter["name"] == "envoy.filters.http.ext_authz").unwrap();
        &mut filter["typed_config"]
    }

    /// A cluster.
    pub(crate) fn cluster(&mut self, name: &str) -> &mut Value {
        let clusters = self.0["static_resources"]["clusters"].as_sequence_mut().unwrap();
        clusters.iter_mut().find(|cluster| cluster["name"] == name).unwrap()
    }

    /// With a cluster that has one endpoint, spoken to in HTTP/2.
    pub(crate) fn with_cluster(mut self, name: &str, address: SocketAddr) -> Self {
        let mut cluster = self.cluster("keyclasp").clone();
        cluster["name"] = name.into();
        cluster["load_assignment"]["cluster_name"] = name.into();
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = parse(&format!(
            "[ {{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }} ]",
            address.ip(),
            address.port()
        ));
        cluster.as_mapping_mut().unwrap().remove("health_checks");
        self.0["static_resources"]["clusters"].as_sequence_mut().unwrap().push(cluster);
        self
    }

    /// Virtual hosts.
    pub(crate) fn hosts(&mut self) -> &mut Vec<Value> {
        self.manager()["route_config"]["virtual_hosts"].as_sequence_mut().unwrap()
    }

    /// With a setting of the ext_authz filter.
    pub(crate) fn with(mut self, setting: &str, yaml: &str) -> Self {
        self.authorization()[setting] = parse(yaml);
        self
    }

    /// Without the removal of identity headers before all filters.
    pub(crate) fn without_early_mutation(mut self) -> Self {
        let removed = self.manager().as_mapping_mut().unwrap().remove("early_header_mutation_extensions");
        assert!(removed.is_some(), "the printed configuration has it");
        self
    }

    /// Without a token for keyclasp.
    pub(crate) fn without_metadata(mut self) -> Self {
        let service = &mut self.authorization()["grpc_service"];
        assert!(
            service.as_mapping_mut().unwrap().remove("initial_metadata").is_some(),
            "the printed configuration has it"
        );
        self
    }

    /// With a route of the first virtual host, before the others, that has these context extensions.
    pub(crate) fn route(mut self, prefix: &str, extensions: &[(&str, &str)]) -> Self {
        let route = route(prefix, extensions);
        self.hosts()[0]["routes"].as_sequence_mut().unwrap().insert(0, route);
        self
    }

    /// With a virtual host of its own for `domain`, before the one for all.
    pub(crate) fn host(mut self, domain: &str, extensions: &[(&str, &str)]) -> Self {
        let mut host = parse("{ routes: [ { match: { prefix: / }, route: { cluster: upstream } } ] }");
        host["name"] = domain.into();
        host["domains"] = Value::Sequence(vec![domain.into()]);
        host["typed_per_filter_config"] = per_route(extensions);
        self.hosts().insert(0, host);
        self
    }

    /// With an upstream that is spoken to in the protocol of the client.
    pub(crate) fn same_protocol(mut self) -> Self {
        self.cluster("upstream")["typed_extension_protocol_options"] = parse(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n  \
             \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n  \
             use_downstream_protocol_config: { http_protocol_options: {}, http2_protocol_options: {} }\n",
        );
        self
    }

    /// Starts an Envoy with it, whose token for keyclasp is `token`.
    pub(crate) fn start(&self, token: &str) -> Envoy {
        self.start_with(token, 1)
    }

    /// The same with so many workers.
    pub(crate) fn start_with(&self, token: &str, workers: u8) -> Envoy {
        let dir = TempDir::new();
        let file = dir.path().join("envoy.json");
        std::fs::write(&file, serde_json::to_string(&self.0).unwrap()).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new(path())
            .arg("-c")
            .arg(&file)
            // With hot restarts, it would end with the thread that started it, which is that of one test.
            .args(["--concurrency", &workers.to_string(), "--disable-hot-restart", "--log-level", "warning"])
            // Each line of the access log at once.
            .args(["--file-flush-interval-msec", "10", "--admin-address-path"])
            .arg(dir.path().join("admin"))
            .env("KEYCLASP_TOKEN", token)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("Envoy does not start ({error}); run scripts/setup.sh"));
        let mut envoy = Envoy { child, dir, listen: ([127, 0, 0, 1], 0).into(), admin: ([127, 0, 0, 1], 0).into() };
        envoy.wait_ready();
        envoy
    }
}

/// Whether `envoy --mode validate` accepts a file, and what it says if not.
pub(crate) fn validate(file: &std::path::Path) -> Result<(), String> {
    let output = Command::new(path()).args(["--mode", "validate", "-c"]).arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// YAML of a test.
pub(crate) fn parse(yaml: &str) -> Value {
    serde_yaml_ng::from_str(yaml).unwrap()
}

/// A route to the upstream with context extensions.
pub(crate) fn route(prefix: &str, extensions: &[(&str, &str)]) -> Value {
    let mut route = parse("{ match: {}, route: { cluster: upstream } }");
    route["match"]["prefix"] = prefix.into();
    route["typed_per_filter_config"] = per_route(extensions);
    route
}

fn per_route(extensions: &[(&str, &str)]) -> Value {
    let mut config = parse(
        "envoy.filters.http.ext_authz:\n  \
         \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute\n  \
         check_settings: { context_extensions: {} }\n",
    );
    for (name, value) in extensions {
        config["envoy.filters.http.ext_authz"]["check_settings"]["context_extensions"][*name] = (*value).into();
    }
    config
}

/// An Envoy that runs.
#[derive(Debug)]
pub(crate) struct Envoy {
    child: Child,
    dir: TempDir,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Envoy {
    /// Where it takes requests.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Its access log and what it says.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The line of its access log that has `mark`, such as a path that only one request has.
    pub(crate) fn logged(&self, mark: &str) -> String {
        let line = || self.log().lines().find(|line| line.contains(mark)).map(ToOwned::to_owned);
        eventually(START, line).unwrap_or_else(|| panic!("no line with {mark} in\n{}", self.log()))
    }

    /// What its administration interface answers.
    pub(crate) fn admin(&self, path: &str) -> String {
        http_get(self.admin, path).map(|(_, body)| body).unwrap_or_default()
    }

    /// One of its counters.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let text = self.admin(&format!("/stats?format=text&filter=^{name}$"));
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.trim().parse().ok())
            .unwrap_or_default()
    }

    fn wait_ready(&mut self) {
        let ready = eventually(START, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("Envoy ended ({status}):\n{}", self.log());
            }
            let admin = std::fs::read_to_string(self.dir.path().join("admin")).ok()?;
            self.admin = admin.trim().parse().ok()?;
            let (status, _) = http_get(self.admin, "/ready")?;
            if status != 200 {
                return None;
            }
            // `main::127.0.0.1:PORT`
            let listeners = self.admin("/listeners");
            let address = listeners.lines().find_map(|line| line.trim().strip_prefix("main::")?.parse().ok());
            address.filter(|address: &SocketAddr| address.port() != 0)
        });
        self.listen = ready.unwrap_or_else(|| panic!("Envoy is not ready after {START:?}:\n{}", self.log()));
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program: the one on PATH, else where `scripts/setup.sh` puts it.
pub(crate) fn path() -> PathBuf {
    let on_path =
        std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let tools = cache.map(|cache| cache.join("keyclasp-tools/bin"));
    let found = on_path.chain(tools).map(|dir| dir.join("envoy")).find(|path| path.is_file());
    found.unwrap_or_else(|| "envoy".into())
}
