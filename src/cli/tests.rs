//! Tests of the command line as a whole: what it takes and what it refuses.

use clap::CommandFactory;

use super::*;

fn parses(line: &str) -> bool {
    parse(line.split_whitespace().map(Into::into)).is_ok()
}

#[test]
fn the_declaration_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_is_there() {
    for line in [
        "keyclasp serve --config f",
        "keyclasp init --dir d --store redis://h",
        "keyclasp key create --realm r --owner user:a --name n --scope a:read --scope b --ttl 14d --cidr 10.0.0.0/8 \
         --principal p --label k=v --request-id x",
        "keyclasp key create --owner user:a --expires-at 2030-01-01T00:00:00Z --not-before 1d",
        "keyclasp key get id --output yaml",
        "keyclasp key list --owner client:a --status active --limit 5 -q",
        "keyclasp key update id --name n --clear scopes",
        "keyclasp key rotate id --grace 1h --ttl 1d",
        "keyclasp key rotate id --grace 0",
        "keyclasp key suspend id --reason r --until 1h",
        "keyclasp key resume id",
        "keyclasp key revoke id --reason r",
        "keyclasp key revoke-all --all --yes",
        "keyclasp key revoke-all --owner user:a --created-before 1d --scope a --dry-run",
        "keyclasp validate --scope a --address 10.0.0.1 --principal p --key-file f",
        "keyclasp audit list --key id --actor a --action revoked --since 1h --before 2030-01-01T00:00:00Z --newest",
        "keyclasp keyring add --dir d 2026-11",
        "keyclasp keyring use x --file f",
        "keyclasp keyring retire x --force --config f",
        "keyclasp keyring status",
        "keyclasp store set-lease 500ms --config f",
        "keyclasp config check --config f",
        "keyclasp config reference",
        "keyclasp doctor --output json",
        "keyclasp --endpoint http://h:1 --token-file t --realm r --timeout 1s --output json key list",
    ] {
        assert!(parses(line), "{line}");
    }
}

#[test]
fn wrong_usage_is_refused() {
    for line in [
        "keyclasp",
        "keyclasp key",
        "keyclasp key create --realm r",
        "keyclasp key create --owner alice",
        "keyclasp key create --owner user:a --ttl 1d --expires-at 2030-01-01T00:00:00Z",
        "keyclasp key create --owner user:a --ttl 0s",
        "keyclasp key create --owner user:a --label x",
        "keyclasp key list --limit 0",
        "keyclasp key list --status gone",
        "keyclasp key revoke-all --yes",
        "keyclasp key revoke-all --all --owner user:a",
        "keyclasp validate kc_x_y",
        "keyclasp --token secret key list",
        "keyclasp init",
    ] {
        assert!(!parses(line), "{line}");
    }
}

#[test]
fn the_help_shows_no_value_of_the_environment() {
    let error = parse(["keyclasp", "key", "list", "--help"].into_iter().map(Into::into)).unwrap_err();
    let help = error.render().to_string();
    assert!(help.contains("[env: KEYCLASP_REALM]"), "{help}");
}
