//! The file: made with the right permissions, opened by one process at a time, known by its format.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::{Builder, Database, DatabaseError, ReadableDatabase, WriteTransaction};

use super::tables::{FORMAT, META, META_EPOCH, META_FORMAT, Tables};
use crate::random::{self, Entropy};
use crate::store::{Epoch, StoreError};

/// Name of the file in its directory.
pub(super) const FILE_NAME: &str = "keyclasp.redb";

/// Opens the file in `dir`, which is made where it does not exist, and makes it a store where it is
/// empty. Answers its epoch too.
pub(super) fn open(dir: &Path, cache_bytes: usize, entropy: &dyn Entropy) -> Result<(Database, Epoch), StoreError> {
    let dir_error = |error| refused(dir, "cannot be used", &error, "check its path and permissions");
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(dir_error)?;
    let path = path(dir);
    let new = !path.try_exists().map_err(dir_error)?;
    let file = file_options().create(true).truncate(false).open(&path);
    let file = file.map_err(|error| refused(&path, "cannot be opened", &error, "check its owner and permissions"))?;
    // A file that was restored from somewhere may have come with other permissions.
    file.set_permissions(Permissions::from_mode(0o600))
        .map_err(|error| refused(&path, "cannot be kept private", &error, "give it to the user that runs keyclasp"))?;
    if new {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(dir_error)?;
    }
    let database = database(file, cache_bytes, dir)?;
    let epoch = known_epoch(&database, &path)?;
    let epoch = match epoch {
        Some(epoch) => epoch,
        None => found(&database, &path, entropy)?,
    };
    Ok((database, epoch))
}

/// Opens the file again that this process had open until now.
pub(super) fn reopen(dir: &Path, cache_bytes: usize) -> Result<Database, StoreError> {
    let file = file_options().open(path(dir)).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    database(file, cache_bytes, dir)
}

/// Begins a transaction that is on disk once it is committed, and after a crash needs no repair
/// that walks the whole file.
pub(super) fn begin_write(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}

fn file_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn database(file: File, cache_bytes: usize, dir: &Path) -> Result<Database, StoreError> {
    let path = path(dir);
    Builder::new().set_cache_size(cache_bytes).create_file(file).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Refused(format!(
            "another process holds the store in {}; stop it, or set another data_dir",
            dir.display()
        )),
        DatabaseError::Storage(redb::StorageError::Io(io)) if io.kind() != ErrorKind::InvalidData => {
            super::tables::store_error(&redb::Error::Io(io))
        }
        error => refused(&path, "is no store that can be read", &error, "restore it from a backup, or move it away"),
    })
}

/// The epoch of a store, or none in an empty file.
fn known_epoch(database: &Database, path: &Path) -> Result<Option<Epoch>, StoreError> {
    let broken = |error: redb::Error| refused(path, "cannot be read", &error, "restore it from a backup");
    let transaction = database.begin_read().map_err(|error| broken(error.into()))?;
    let tables = transaction.list_tables().map_err(|error| broken(error.into()))?.count();
    if tables == 0 {
        return Ok(None);
    }
    let meta = transaction.open_table(META).map_err(|error| broken(error.into()))?;
    let read = |name: &str| meta.get(name).map_err(|error| broken(error.into()));
    let format = read(META_FORMAT)?.map(|format| format.value().to_vec()).unwrap_or_default();
    if format != FORMAT.to_be_bytes() {
        return Err(StoreError::Refused(format!(
            "{} has the format {}, and this version of keyclasp knows {FORMAT}; run the version that wrote it, or a newer one",
            path.display(),
            <[u8; 4]>::try_from(format.as_slice())
                .map_or_else(|_| "(none)".to_owned(), |it| u32::from_be_bytes(it).to_string()),
        )));
    }
    let epoch = read(META_EPOCH)?.and_then(|epoch| <[u8; 32]>::try_from(epoch.value()).ok());
    match epoch {
        Some(epoch) => Ok(Some(Epoch(epoch))),
        None => Err(refused(path, "cannot be read", &"it has no epoch", "restore it from a backup")),
    }
}

/// Makes an empty file a store, in one transaction.
fn found(database: &Database, path: &Path, entropy: &dyn Entropy) -> Result<Epoch, StoreError> {
    let epoch = random::bytes(entropy).map_err(|error| refused(path, "cannot be made", &error, "try again"))?;
    let write = || -> Result<(), redb::Error> {
        let transaction = begin_write(database)?;
        drop(Tables::open(&transaction)?);
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(META_FORMAT, FORMAT.to_be_bytes().as_slice())?;
            meta.insert(META_EPOCH, epoch.as_slice())?;
        }
        Ok(transaction.commit()?)
    };
    write().map_err(|error| super::tables::store_error(&error))?;
    Ok(Epoch(epoch))
}

fn refused(path: &Path, problem: &str, error: &dyn std::fmt::Display, remedy: &str) -> StoreError {
    StoreError::Refused(format!("{} {problem}: {error}; {remedy}", path.display()))
}
