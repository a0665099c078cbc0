//! `keyclasp config …`: is a configuration right, and what can stand in one?

use clap::Subcommand;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Out;
use crate::config::{self, reference};
use crate::service::status::{Finding, Severity};

/// What to do with a configuration.
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Says everything that is wrong with a configuration (--config FILE), with its place and remedy.
    Check,
    /// Prints every setting with its default, as Markdown.
    Reference,
}

impl Config {
    pub(super) fn run(self, context: &mut Context) -> Result<Exit, Failure> {
        match self {
            Self::Check => check(context),
            Self::Reference => context.out.text(&reference()).map(|()| Exit::Done),
        }
    }
}

fn check(context: &mut Context) -> Result<Exit, Failure> {
    let sources = context.sources();
    let config = config::Config::load(&sources).map_err(|problems| Failure::refused(problems.to_string()))?;
    let mut findings = config.findings();
    // A keyring that is missing is made by the first start, where that may do so.
    if config.keyring.path().exists() || !config.is_embedded() {
        config.keyring.load().map_err(|error| Failure::refused(error.to_string()))?;
    } else {
        findings.push(Finding {
            severity: Severity::Info,
            code: "KEYRING_MISSING",
            meaning: format!("there is no keyring at {} yet", config.keyring.path().display()),
            remedy: "nothing to do on a new service, whose first start makes it; else restore it from a backup"
                .to_owned(),
        });
    }
    let what = sources.file.map_or_else(|| "the environment".to_owned(), |file| file.display().to_string());
    context.out.line(&format!("{what}: valid"))?;
    for finding in &findings {
        said(&mut context.out, finding)?;
    }
    Ok(Exit::Done)
}

fn said(out: &mut Out, finding: &Finding) -> Result<(), Failure> {
    let severity = match finding.severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    out.line(&format!("{severity}: {}: {} ({})", finding.meaning, finding.remedy, finding.code))
}
