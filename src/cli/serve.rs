//! `keyclasp serve`: runs the service. What it is made of is `app`'s business.

use std::net::SocketAddr;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Out;
use crate::app::{self, Started};
use crate::clock::Clock;
use crate::config::{ADMIN_TOKEN_FILE, CONFIG_FILE, Config, Created, Sources, complete};

pub(super) fn run(context: &mut Context) -> Result<Exit, Failure> {
    let mut sources = Sources::from_process(context.global.config.clone());
    if sources.file.is_none() {
        sources.file = sources.user_dir().map(|dir| dir.join(CONFIG_FILE)).filter(|path| path.is_file());
    }
    let mut config = load(&sources)?;
    let now = context.clock.now();
    let created = complete(&config, now, &context.entropy).map_err(|error| Failure::refused(error.to_string()))?;
    if !created.files.is_empty() {
        // The admin token that was just made is a caller.
        config = load(&sources)?;
    }
    let token = config.data_dir.join(ADMIN_TOKEN_FILE);
    let token = (sources.file.is_some() && token.is_file()).then(|| token.display().to_string());
    let out = &mut context.out;
    app::run(config, |started| {
        let _ = announce(out, started, &created, token.as_deref());
    })
    .map_err(|error| Failure::refused(format!("{error:#}")))?;
    Ok(Exit::Done)
}

fn load(sources: &Sources) -> Result<Config, Failure> {
    Config::load(sources).map_err(|problems| Failure::refused(problems.to_string()))
}

/// Says where it listens and what to try next. `token`: the admin token, where the command line
/// does not find it by itself.
fn announce(out: &mut Out, started: &Started, created: &Created, token: Option<&str>) -> Result<(), Failure> {
    for file in &created.files {
        out.line(&format!("Wrote {}", file.display()))?;
    }
    out.line(&format!(
        "keyclasp {} listens on {} (gRPC and JSON) and {} (metrics and health)",
        env!("CARGO_PKG_VERSION"),
        started.listen,
        started.ops_listen
    ))?;
    out.line(&format!("Try: {}", next_command(started.listen, token)))?;
    out.flush()
}

fn next_command(listen: SocketAddr, token: Option<&str>) -> String {
    let mut command = program();
    if listen.port() != 7413 || !(listen.ip().is_loopback() || listen.ip().is_unspecified()) {
        let host = if listen.ip().is_unspecified() { "127.0.0.1".to_owned() } else { host(listen) };
        command.push_str(&format!(" --endpoint http://{host}:{}", listen.port()));
    }
    if let Some(token) = token {
        command.push_str(&format!(" --token-file {token}"));
    }
    command + " key create --realm test --owner user:alice --name first --ttl 1d"
}

fn host(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}

/// How this program was called.
pub(super) fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "keyclasp".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_command_says_what_cannot_be_found_out() {
        let command = |listen: &str, token| next_command(listen.parse().unwrap(), token);
        let plain = command("127.0.0.1:7413", None);
        assert!(plain.ends_with(" key create --realm test --owner user:alice --name first --ttl 1d"));
        assert!(!plain.contains("--endpoint") && !plain.contains("--token-file"));
        assert!(command("127.0.0.1:1", Some("t")).contains(" --endpoint http://127.0.0.1:1 --token-file t key create"));
        assert!(command("[::1]:1", None).contains(" --endpoint http://[::1]:1 "));
        assert!(command("0.0.0.0:1", None).contains(" --endpoint http://127.0.0.1:1 "));
    }
}
