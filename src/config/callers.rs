//! `[[callers]]`: who may call, with which roles in which realms, and within which caps.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER_PERMISSIVE;
use sha2::{Digest, Sha256};

use super::problem::{Problem, Problems};
use super::setting::{Fault, Setting, place, read, section};
use super::source::{self, Place, Raw, Table};
use super::types::text;
use crate::key::{Actor, Caps, OwnerRef, Realm, Scope};
use crate::service::access::{Grant, Principal, Realms, Role};

section! {
    /// Programs that may call, each with a bearer token of its own. What is not granted is refused. As many
    /// tables as there are callers.
    ["callers"] pub(super) struct CallerSection {
        /// What audit events and logs call it. Does not begin with `key:`, as that is how they call a key that
        /// revoked itself.
        name: Actor,
        /// SHA-256 of its token, as 64 hexadecimal digits (`printf %s "$TOKEN" | sha256sum`).
        token_sha256: Option<TokenDigest>,
        /// A file with its token, instead of the digest.
        token_file: Option<PathBuf>,
        /// Its roles: `validator` (validate keys), `issuer` (make and change keys), `auditor` (read keys and audit events), `keycloak`
        /// (report what became of owners), `admin` (all of these).
        roles: Option<Vec<Role>>,
        /// The realms in which it has these roles; `["*"]`: all.
        realms: Option<Vec<RealmName>>,
    }
    check |caller, reader| {
        // A key that revokes itself is the actor `key:ID`: nobody else may look like one.
        if caller.name.as_str().starts_with("key:") {
            let problem = "begins with `key:`, which is how audit events call a key that revoked itself";
            reader.refuse("name", problem, "choose a name that begins otherwise");
        }
        if caller.token_sha256.is_some() == caller.token_file.is_some() {
            let both = if caller.token_file.is_some() { "is set beside token_file" } else { "is missing" };
            reader.refuse("token_sha256", both, "set one of token_sha256 and token_file");
        }
        match (&caller.roles, &caller.realms) {
            (Some(_), None) => reader.refuse("realms", "is missing", "name the realms of its roles, or [\"*\"] for all"),
            (None, Some(_)) => reader.refuse("roles", "is missing", "name its roles, such as [\"validator\"]"),
            _ => {}
        }
    }
}

section! {
    /// Further roles of a caller, in other realms.
    ["callers.grants"] pub(super) struct GrantSection {
        /// The role.
        role: Role,
        /// The realms in which it has the role; `["*"]`: all.
        realms: Vec<RealmName>,
    }
    check |_, _| {}
}

section! {
    /// Bounds on what a caller may make of a key, whatever its roles. They are checked against the key as it would be afterwards.
    ["callers.caps"] pub(super) struct CapsSection {
        /// Scopes that it may grant: each must be one of these or be implied by one.
        scopes: Option<Vec<Scope>>,
        /// Longest lifetime from now on that it may give.
        max_ttl: Option<std::time::Duration>,
        /// Owners for whom it may act.
        owners: Option<Vec<OwnerRef>>,
    }
    check |_, _| {}
}

/// Who may call, and how it proves that.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who, with what rights.
    pub principal: Principal,
    /// SHA-256 of its token.
    pub token_sha256: [u8; 32],
    /// Where the token is read from, if it is a file.
    pub token_file: Option<PathBuf>,
}

/// Reads all callers.
pub(super) fn callers(tables: Vec<Table>, base: &Path, problems: &mut Problems) -> Vec<Caller> {
    let mut callers: Vec<Caller> = Vec::new();
    for mut table in tables {
        let at = table.place.clone();
        let Some(caller) = caller(&mut table, base, problems) else { continue };
        if callers.iter().any(|other| other.principal.name == caller.principal.name) {
            let remedy = "give each caller its own name";
            problems.push(Problem::new(at.clone(), "callers.name", "is that of another caller too", remedy));
        }
        if callers.iter().any(|other| other.token_sha256 == caller.token_sha256) {
            let remedy = "give each caller its own token";
            problems.push(Problem::new(at, "callers", "has the token of another caller", remedy));
        }
        callers.push(caller);
    }
    callers
}

fn caller(table: &mut Table, base: &Path, problems: &mut Problems) -> Option<Caller> {
    let at = table.place.clone();
    let grants = table.take_tables("grants", "callers.grants", problems);
    let caps = table.take_table("caps", "callers.caps", problems);
    // Both are read to the end, so that all that is wrong is said.
    let caps = read::<CapsSection>(&[&caps], "callers.caps", &[], base, problems);
    let grants: Vec<_> =
        grants.iter().map(|grant| read::<GrantSection>(&[grant], "callers.grants", &[], base, problems)).collect();
    let section = read::<CallerSection>(&[table], "callers", &["grants", "caps"], base, problems)?;
    let token_sha256 = match (&section.token_sha256, &section.token_file) {
        (Some(digest), _) => digest.0,
        (None, Some(path)) => token_digest(path, place(&[table], "token_file"), problems)?,
        (None, None) => return None,
    };
    let (caps, grants) = (caps?, grants.into_iter().collect::<Option<Vec<_>>>()?);
    let halved = section.roles.is_some() != section.realms.is_some();
    let realms = RealmName::set(section.realms.unwrap_or_default());
    let mut all: Vec<_> =
        section.roles.unwrap_or_default().into_iter().map(|role| Grant { role, realms: realms.clone() }).collect();
    all.extend(grants.into_iter().map(|grant| Grant { role: grant.role, realms: RealmName::set(grant.realms) }));
    if !halved && all.iter().all(|grant| grant.realms == Realms::Only(Vec::new())) {
        let remedy = "give it roles = [\"validator\"] and realms = [\"*\"], or remove the caller";
        problems.push(Problem::new(at, "callers", "has no role in any realm", remedy));
    }
    let caps = Caps { scopes: caps.scopes, max_ttl: caps.max_ttl, owners: caps.owners };
    let principal = Principal { name: section.name, grants: all, caps };
    Some(Caller { principal, token_sha256, token_file: section.token_file })
}

/// The caller that the admin token in the data directory stands for, where there is no
/// configuration file.
pub(super) fn admin(token_file: &Path, problems: &mut Problems) -> Option<Caller> {
    let token_sha256 = token_digest(token_file, Place::Nowhere, problems)?;
    let name = Actor::parse("admin").ok()?;
    let grants = vec![Grant { role: Role::Admin, realms: Realms::All }];
    let principal = Principal { name, grants, caps: Caps::default() };
    Some(Caller { principal, token_sha256, token_file: Some(token_file.to_owned()) })
}

/// SHA-256 of the token in a file.
fn token_digest(path: &Path, place: Place, problems: &mut Problems) -> Option<[u8; 32]> {
    let setting = "callers.token_file";
    let text = zeroize::Zeroizing::new(source::read(path, setting, place.clone(), problems)?);
    let token = text.strip_suffix('\n').unwrap_or(&text);
    if token.len() < 16 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let remedy = "put at least 16 visible ASCII characters into it, such as the output of `openssl rand -hex 32`";
        problems.push(Problem::new(place, setting, format!("{} holds no token", path.display()), remedy));
        return None;
    }
    Some(Sha256::digest(token).into())
}

/// SHA-256 of a token.
#[derive(Debug, Clone)]
pub(super) struct TokenDigest([u8; 32]);

impl Setting for TokenDigest {
    fn form() -> String {
        "a SHA-256 in hexadecimal".to_owned()
    }

    fn example() -> String {
        // Of bytes that nobody kept.
        "\"c6f2fbfcd97938d77f74b544bded8a98761768732ef9c5679d25b492da666aaf\"".to_owned()
    }

    fn parse(value: &Raw, _: &Path) -> Result<Self, Fault> {
        let remedy =
            "write 64 hexadecimal digits: `printf %s \"$TOKEN\" | sha256sum`; a token itself goes into token_file";
        let bytes: Option<[u8; 32]> = text(value)
            .and_then(|text| HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok())
            .and_then(|bytes| bytes.try_into().ok());
        let digest = bytes.ok_or_else(|| Fault::with::<Self>(remedy))?;
        // What `sha256sum` says where $TOKEN is not set: whoever sends nothing would be that caller.
        if Sha256::digest(b"")[..] == digest {
            return Err(Fault::with::<Self>("it is that of the empty text: set TOKEN before you make the digest"));
        }
        Ok(Self(digest))
    }
}

impl Setting for Role {
    fn form() -> String {
        "a role".to_owned()
    }

    fn example() -> String {
        let names: Vec<_> = Role::ALL.iter().map(|role| format!("\"{}\"", role.name())).collect();
        names.join(" or ")
    }

    fn parse(value: &Raw, _: &Path) -> Result<Self, Fault> {
        let name = text(value).unwrap_or_default();
        Role::ALL.into_iter().find(|role| role.name() == name).ok_or_else(Fault::form::<Self>)
    }
}

/// A realm, or `*` for all.
#[derive(Debug, Clone)]
pub(super) enum RealmName {
    All,
    One(Realm),
}

impl RealmName {
    fn set(names: Vec<Self>) -> Realms {
        let one = |name| match name {
            Self::All => None,
            Self::One(realm) => Some(realm),
        };
        names.into_iter().map(one).collect::<Option<Vec<_>>>().map_or(Realms::All, Realms::Only)
    }
}

impl Setting for RealmName {
    fn form() -> String {
        "a realm".to_owned()
    }

    fn example() -> String {
        "\"production\" or \"*\"".to_owned()
    }

    fn parse(value: &Raw, base: &Path) -> Result<Self, Fault> {
        match text(value) {
            Some("*") => Ok(Self::All),
            _ => <Realm as Setting>::parse(value, base).map(Self::One),
        }
    }
}
