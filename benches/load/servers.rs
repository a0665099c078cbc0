//! The servers that are measured: the references, keyclasp, Redis.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _};
use keyclasp::key::{ApiKey, SecretBytes, render};
use keyclasp::rpc::proto::v1;
use keyclasp::rpc::proto::v1::key_service_client::KeyServiceClient;
use prost::Message as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::authz;
use super::process::{Process, Scratch, free_address, get, listens};
use super::wire::framed;

/// The realm of every key.
pub(crate) const REALM: &str = "acme";
const VALIDATOR_TOKEN: &str = "bench-validator-0123456789abcdef0123456789abcdef0123456789abcdef";
const SECRET_RANDOM: [u8; 32] = [7; 32];

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) keyclasp: PathBuf,
    pub(crate) noop_stock: PathBuf,
    pub(crate) allocations: PathBuf,
    pub(crate) load: PathBuf,
}

impl Programs {
    /// Beside this program: as cargo has them, `target/PROFILE/examples/load` below keyclasp, or as
    /// `scripts/pgo.sh` has them, `target/pgo/load` beside keyclasp.
    pub(crate) fn beside() -> anyhow::Result<Self> {
        let load = std::env::current_exe()?;
        let examples = load.parent().context("this program is in no directory")?;
        let programs =
            if examples.ends_with("examples") { examples.parent().context("no target directory")? } else { examples };
        let keyclasp = programs.join("keyclasp");
        let (noop_stock, allocations) = (examples.join("noop_stock"), examples.join("allocations"));
        Ok(Self { keyclasp, noop_stock, allocations, load })
    }

    /// Beside this program, and all there.
    pub(crate) fn find() -> anyhow::Result<Self> {
        Self::beside()?.complete()
    }

    /// These, but for what has no profile: plain builds, from where cargo has them.
    pub(crate) fn with_plain(self, target: &Path) -> anyhow::Result<(Self, Plain)> {
        let target = std::path::absolute(target)?;
        let examples = target.join("examples");
        let (noop_stock, allocations) = (examples.join("noop_stock"), examples.join("allocations"));
        let programs = Self { noop_stock, allocations, ..self }.complete()?;
        let plain = Self { keyclasp: target.join("keyclasp"), ..programs.clone() }.complete()?;
        Ok((programs, Plain(plain)))
    }

    /// These, but for another keyclasp.
    pub(crate) fn with(self, keyclasp: &Path) -> anyhow::Result<Self> {
        ensure!(keyclasp.exists(), "{} is missing; `scripts/pgo.sh` builds it", keyclasp.display());
        Ok(Self { keyclasp: std::path::absolute(keyclasp)?, ..self })
    }

    fn complete(self) -> anyhow::Result<Self> {
        for program in [&self.keyclasp, &self.noop_stock, &self.allocations] {
            ensure!(program.exists(), "{} is missing; `make bench` builds all that is needed", program.display());
        }
        Ok(self)
    }
}

/// With a keyclasp that was built without a profile, which is measured beside the other one.
#[derive(Debug)]
pub(crate) struct Plain(pub(crate) Programs);

/// A server that answers ValidateKey.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

/// A reference whose answers have `len` bytes.
pub(crate) fn reference(program: &Path, args: &[&str], len: usize, core: usize, log: &Path) -> anyhow::Result<Server> {
    let address = free_address()?;
    let mut process = Process::start(core, program, log, |command| {
        command.args(args).arg(address.to_string()).arg(len.to_string());
    })?;
    process.wait(|| listens(address))?;
    Ok(Server { process, address })
}

/// A directory of `keyclasp init`, and where its server shall listen.
#[derive(Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    pub(crate) address: SocketAddr,
    ops: SocketAddr,
    program: PathBuf,
    settings: Vec<(String, String)>,
    /// A tool that runs it, with its arguments.
    under: Vec<String>,
}

impl Home {
    /// Makes it, with a caller that may only validate beside the administrator.
    pub(crate) fn init(
        programs: &Programs,
        scratch: &Scratch,
        name: &str,
        store: Option<&str>,
    ) -> anyhow::Result<Self> {
        let dir = scratch.path(name);
        let mut command = Command::new(&programs.keyclasp);
        command.arg("init").arg("--dir").arg(&dir);
        if let Some(store) = store {
            command.arg("--store").arg(store);
        }
        let output = command.output()?;
        ensure!(output.status.success(), "keyclasp init: {}", String::from_utf8_lossy(&output.stderr));
        let token_file = dir.join("validator.token");
        std::fs::write(&token_file, VALIDATOR_TOKEN)?;
        let config = dir.join("keyclasp.toml");
        let caller = format!(
            "\n[[callers]]\nname = \"gateway\"\ntoken_file = \"validator.token\"\nroles = [\"validator\"]\nrealms = [\"{REALM}\"]\n"
        );
        std::fs::write(&config, std::fs::read_to_string(&config)? + &caller)?;
        let program = programs.keyclasp.clone();
        Ok(Self {
            dir,
            address: free_address()?,
            ops: free_address()?,
            program,
            settings: Vec::new(),
            under: Vec::new(),
        })
    }

    /// With more configuration: whole sections.
    pub(crate) fn with(self, sections: &str) -> anyhow::Result<Self> {
        let config = self.dir.join("keyclasp.toml");
        std::fs::write(&config, std::fs::read_to_string(&config)? + sections)?;
        Ok(self)
    }

    /// With a setting from the environment.
    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs under this tool.
    pub(crate) fn under(mut self, tool: Vec<String>) -> Self {
        self.under = tool;
        self
    }

    /// Where a further replica listens that has the same directory.
    pub(crate) fn beside(&self) -> anyhow::Result<Self> {
        Ok(Self {
            dir: self.dir.clone(),
            address: free_address()?,
            ops: free_address()?,
            program: self.program.clone(),
            settings: self.settings.clone(),
            under: self.under.clone(),
        })
    }

    /// A client, and the token of the administrator.
    pub(crate) async fn client(&self) -> anyhow::Result<(KeyServiceClient<Channel>, Arc<str>)> {
        let channel = Channel::from_shared(format!("http://{}", self.address))?.tcp_nodelay(true).connect().await?;
        let token = std::fs::read_to_string(self.dir.join("admin.token"))?;
        Ok((KeyServiceClient::new(channel), token.trim_end().into()))
    }

    /// Makes `keys` keys of as many owners, `at_once` at a time, that nobody has asked for yet.
    pub(crate) async fn make(&self, keys: usize, at_once: usize) -> anyhow::Result<Vec<Fresh>> {
        let (client, admin) = self.client().await?;
        let making = (0..keys).map(|number| create(client.clone(), Arc::clone(&admin), number));
        futures_util::stream::iter(making).buffer_unordered(at_once).try_collect().await
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts the server; answers how long it took until it was ready.
    pub(crate) fn serve(&self, core: usize) -> anyhow::Result<(Server, Duration)> {
        let mut words = self.under.iter().map(Path::new).chain([self.program.as_path()]);
        let first = words.next().context("no program")?;
        let mut process = Process::start(core, first, &self.dir.join("log"), |command| {
            command.args(words).arg("serve").arg("--config").arg(self.dir.join("keyclasp.toml"));
            command.env("KEYCLASP_SERVER__LISTEN", self.address.to_string());
            command.env("KEYCLASP_SERVER__OPS_LISTEN", self.ops.to_string());
            command.envs(self.settings.iter().cloned());
        })?;
        let waited = process.wait(|| get(self.ops, "/readyz").is_some());
        let took = waited.with_context(|| std::fs::read_to_string(self.dir.join("log")).unwrap_or_default())?;
        Ok((Server { process, address: self.address }, took))
    }

    /// The metrics of the running server whose name begins with `prefix`, by name and labels.
    pub(crate) fn metrics(&self, prefix: &str) -> anyhow::Result<BTreeMap<String, f64>> {
        let text = get(self.ops, "/metrics").context("/metrics does not answer")?;
        let found: BTreeMap<_, _> = text
            .lines()
            .filter(|line| line.starts_with(prefix))
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect();
        ensure!(!found.is_empty(), "/metrics has nothing that begins with {prefix}");
        Ok(found)
    }

    /// Makes `keys` keys of as many owners, validates each once, and answers what the load needs.
    pub(crate) async fn prepare(&self, keys: usize) -> anyhow::Result<Material> {
        let (mut client, admin) = self.client().await?;
        let (mut valid, mut forged, mut checks) = (Vec::new(), Vec::new(), Vec::new());
        let (mut ids, mut texts, mut answer_len) = (Vec::new(), Vec::new(), 0);
        for number in 0..keys {
            let Fresh { id, api_key } = create(client.clone(), Arc::clone(&admin), number).await?;
            ids.push(id);
            let request = question(api_key.clone());
            let answer = client.validate_key(bearer(request.clone(), VALIDATOR_TOKEN)?).await?.into_inner();
            ensure!(answer.outcome() == v1::Outcome::Valid, "a new key is {:?}", answer.outcome());
            answer_len = answer.encoded_len();
            valid.push(framed(&request.encode_to_vec()));
            checks.push(authz::question(&request.api_key));
            // The same id, another secret under a tag that nobody made.
            let parsed = ApiKey::new(api_key).parse()?;
            let forgery = render(&parsed.prefix, parsed.id, &SecretBytes::new(SECRET_RANDOM), parsed.tag);
            forged.push(framed(&question(forgery.expose().to_owned()).encode_to_vec()));
            texts.push(request.api_key);
        }
        let (valid, forged, checks) = (valid.into(), forged.into(), checks.into());
        Ok(Material { token: VALIDATOR_TOKEN.into(), valid, forged, checks, keys: texts, ids, answer_len })
    }
}

/// A key that was made.
#[derive(Debug, Clone)]
pub(crate) struct Fresh {
    pub(crate) id: String,
    pub(crate) api_key: String,
}

impl Fresh {
    /// The request that validates it, as a load sends it.
    pub(crate) fn message(&self) -> Vec<u8> {
        framed(&question(self.api_key.clone()).encode_to_vec())
    }

    /// How a server answers a check of it.
    pub(crate) async fn validate(&self, client: &mut KeyServiceClient<Channel>) -> Result<v1::Outcome, Status> {
        let request = bearer(question(self.api_key.clone()), VALIDATOR_TOKEN);
        let answer = client.validate_key(request.map_err(|error| Status::internal(error.to_string()))?).await?;
        Ok(answer.into_inner().outcome())
    }
}

/// The key `number`, of an owner of its own.
async fn create(mut client: KeyServiceClient<Channel>, admin: Arc<str>, number: usize) -> anyhow::Result<Fresh> {
    let owner = v1::Owner {
        kind: v1::OwnerKind::User.into(),
        id: format!("0b9d3c0e-6f5a-4c1d-9a51-{number:012x}"),
        display_name: String::new(),
    };
    let month = prost_types::Duration { seconds: 30 * 24 * 60 * 60, nanos: 0 };
    let request = v1::CreateKeyRequest {
        realm: REALM.to_owned(),
        owner: Some(owner),
        name: format!("report-{number:04}"),
        scopes: vec!["clusters:write".to_owned(), "nodes:read".to_owned()],
        lifetime: Some(v1::create_key_request::Lifetime::Ttl(month)),
        ..Default::default()
    };
    let created = client.create_key(bearer(request, &admin)?).await?.into_inner();
    Ok(Fresh { id: created.key.context("CreateKey answered no key")?.id, api_key: created.api_key })
}

/// What a load is made of.
#[derive(Debug, Clone)]
pub(crate) struct Material {
    /// The caller's token.
    pub(crate) token: Arc<str>,
    /// Requests with a valid key.
    pub(crate) valid: Arc<[Vec<u8>]>,
    /// Requests with a forged one: well-formed, its checksum right, its tag wrong.
    pub(crate) forged: Arc<[Vec<u8>]>,
    /// What Envoy asks about requests with the valid ones.
    pub(crate) checks: Arc<[Vec<u8>]>,
    /// The valid ones.
    pub(crate) keys: Vec<String>,
    /// Their ids.
    pub(crate) ids: Vec<String>,
    /// Bytes of an answer.
    pub(crate) answer_len: usize,
}

fn question(api_key: String) -> v1::ValidateKeyRequest {
    v1::ValidateKeyRequest {
        api_key,
        realm: REALM.to_owned(),
        // Implied by `clusters:write`.
        required_scopes: vec!["clusters:read".to_owned()],
        ..Default::default()
    }
}

pub(crate) fn bearer<T>(message: T, token: &str) -> anyhow::Result<Request<T>> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    Ok(request)
}

/// A Redis for this run alone.
#[derive(Debug)]
pub(crate) struct Redis {
    pub(crate) process: Process,
    pub(crate) url: String,
    place: Place,
}

/// Where a Redis is, also while it is not.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    address: SocketAddr,
    dir: PathBuf,
    core: usize,
    durable: bool,
}

impl Redis {
    /// Starts it without persistence.
    pub(crate) fn start(scratch: &Scratch, core: usize) -> anyhow::Result<Self> {
        Place::new(scratch, core, false)?.start()
    }

    /// Starts one that finds its data again.
    pub(crate) fn durable(scratch: &Scratch, core: usize) -> anyhow::Result<Self> {
        Place::new(scratch, core, true)?.start()
    }

    /// SIGKILL; answers where it may be started again.
    pub(crate) fn kill(self) -> anyhow::Result<Place> {
        self.process.kill()?;
        Ok(self.place)
    }

    /// Its version.
    pub(crate) fn version(&self) -> anyhow::Result<String> {
        let mut connection = redis::Client::open(self.url.as_str())?.get_connection()?;
        let info: redis::InfoDict = redis::cmd("INFO").arg("server").query(&mut connection)?;
        info.get("redis_version").context("Redis does not say its version")
    }

    /// What it is told from now on, a line each.
    pub(crate) async fn monitor(&self) -> anyhow::Result<BufReader<TcpStream>> {
        let mut stream = BufReader::new(TcpStream::connect(self.place.address).await?);
        stream.write_all(b"MONITOR\r\n").await?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        ensure!(answer.trim() == "+OK", "MONITOR is answered {answer:?}");
        Ok(stream)
    }
}

impl Place {
    fn new(scratch: &Scratch, core: usize, durable: bool) -> anyhow::Result<Self> {
        let address = free_address()?;
        let dir = scratch.path(&format!("redis-{}", address.port()));
        std::fs::create_dir_all(&dir)?;
        Ok(Self { address, dir, core, durable })
    }

    /// Starts it there; answers once it answers PING.
    pub(crate) fn start(self) -> anyhow::Result<Redis> {
        let append = if self.durable { "yes" } else { "no" };
        let mut process = Process::start(self.core, Path::new("redis-server"), &self.dir.join("log"), |command| {
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", append, "--daemonize", "no"]);
            command.arg("--port").arg(self.address.port().to_string()).arg("--dir").arg(&self.dir);
        })?;
        let client = redis::Client::open(format!("redis://{}", self.address))?;
        process.wait(|| {
            let connection = client.get_connection_with_timeout(Duration::from_secs(1));
            connection.is_ok_and(|mut connection| redis::cmd("PING").query::<String>(&mut connection).is_ok())
        })?;
        Ok(Redis { process, url: format!("redis://{}", self.address), place: self })
    }
}
