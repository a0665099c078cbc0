//! The command line: one file per subcommand. All but `serve`, `init`, `keyring`, `config` and `envoy-config` are
//! clients of a running service. Only this module prints, through the one writer in `output.rs`.
//!
//! Secrets come from standard input or from files, never from arguments, which others can see.

mod audit;
mod client;
mod config;
mod doctor;
mod envoy_config;
mod failure;
mod init;
mod input;
mod issue;
mod key;
mod keyring;
mod output;
mod serve;
mod show;
mod store;
mod validate;
mod values;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::client::Client;
use self::failure::{Exit, Failure};
use self::output::{Format, Out};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{CONFIG_FILE, Sources};
use crate::random::OsEntropy;

/// API keys beside Keycloak: scoped, expiring, rotatable, revocable at once, audited.
#[derive(Debug, Parser)]
#[command(
    name = "keyclasp",
    version,
    after_help = "Exit codes: 0 done, 1 refused, 2 wrong usage, 3 the service is out of reach."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What all commands that talk to a service take.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Where the service listens.
    #[arg(long, global = true, env = "KEYCLASP_ENDPOINT", value_name = "URL", default_value = "http://127.0.0.1:7413")]
    endpoint: String,
    /// A file with the token to call with (or KEYCLASP_TOKEN has the token itself). Without both, the
    /// admin token of a service on this machine is looked for beside its configuration.
    #[arg(long, global = true, env = "KEYCLASP_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The realm (tenant).
    #[arg(long, global = true, env = "KEYCLASP_REALM", value_name = "NAME")]
    realm: Option<String>,
    /// How answers are printed: as tables for people, or as the API's own messages.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Prints only what a script needs: the new key's text, or ids.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Longest that one call may take.
    #[arg(long, global = true, value_parser = values::duration, value_name = "DURATION", default_value = "15s")]
    timeout: Duration,
    /// The configuration of a service on this machine. Default: ./keyclasp.toml, then the one in the
    /// user's data directory (`serve`: only that).
    #[arg(long, global = true, env = "KEYCLASP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the service.
    Serve,
    /// Makes the files of a new service: configuration, keyring, admin token.
    Init(init::Init),
    /// Makes, shows and changes keys.
    #[command(subcommand)]
    Key(key::Key),
    /// Asks whether a key may pass: reads it from standard input, exits 0 if it may and 1 if not.
    Validate(validate::Validate),
    /// Shows what happened to keys.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Changes the peppers of a service.
    #[command(subcommand)]
    Keyring(keyring::Keyring),
    /// Changes what is stored beside keys.
    #[command(subcommand)]
    Store(store::Store),
    /// Checks a configuration, and documents it.
    #[command(subcommand)]
    Config(config::Config),
    /// Prints what Envoy needs to ask this service: cluster, filters, routes.
    EnvoyConfig(envoy_config::EnvoyConfig),
    /// Looks for what is wrong with a service: its configuration, its keyring, its store.
    Doctor,
}

/// What a command works with.
struct Context {
    global: Global,
    out: Out,
    clock: SystemClock,
    entropy: OsEntropy,
}

/// Runs the program with the arguments and the environment of this process.
#[must_use]
pub fn main() -> ExitCode {
    let mut out = Out::process();
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &mut out).code(),
    };
    out.set_up(cli.global.output, cli.global.quiet);
    let mut context = Context { global: cli.global, out, clock: SystemClock::new(), entropy: OsEntropy };
    match run(&mut context, cli.command).and_then(|exit| context.out.flush().map(|()| exit)) {
        Ok(exit) => exit.code(),
        Err(failure) => {
            context.out.failure(&failure);
            failure.exit().code()
        }
    }
}

fn parse(arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Cli, clap::Error> {
    // Values of the environment stay out of the help: they may be secret paths, and change it from
    // machine to machine.
    let command = Cli::command().mut_args(|argument| argument.hide_env_values(true));
    Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

/// Help and version go to standard output, wrong usage to standard error.
fn usage(error: &clap::Error, out: &mut Out) -> Exit {
    if error.use_stderr() {
        out.note(error.render().to_string().trim_end());
        return Exit::Usage;
    }
    let _ = out.text(&error.render().to_string());
    let _ = out.flush();
    Exit::Done
}

fn run(context: &mut Context, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Serve => serve::run(context),
        Command::Init(init) => init.run(context),
        Command::Key(key) => key.run(context),
        Command::Validate(validate) => validate.run(context),
        Command::Audit(audit) => audit.run(context),
        Command::Keyring(keyring) => keyring.run(context),
        Command::Store(store) => store.run(context),
        Command::Config(config) => config.run(context),
        Command::EnvoyConfig(config) => config.run(context),
        Command::Doctor => doctor::run(context),
    }
}

impl Context {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The realm, which this command needs.
    fn realm(&self) -> Result<String, Failure> {
        let realm = self.global.realm.clone().filter(|realm| !realm.is_empty());
        realm.ok_or_else(|| Failure::usage("which realm? Give --realm NAME, or set KEYCLASP_REALM"))
    }

    /// The realm, if one is named.
    fn any_realm(&self) -> String {
        self.global.realm.clone().unwrap_or_default()
    }

    /// Where the configuration of a service on this machine is read from.
    fn sources(&self) -> Sources {
        let mut sources = Sources::from_process(self.global.config.clone());
        if sources.file.is_none() {
            let here = PathBuf::from(CONFIG_FILE);
            let users = sources.user_dir().map(|dir| dir.join(CONFIG_FILE));
            sources.file = [Some(here), users].into_iter().flatten().find(|path| path.is_file());
        }
        sources
    }

    /// Connects to the service.
    async fn connect(&self) -> Result<Client, Failure> {
        Client::connect(&self.global, &self.sources()).await
    }
}

/// Runs a command that talks to a service.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::refused(format!("no runtime could be started: {error}")))?.block_on(work)
}

#[cfg(test)]
mod tests;
