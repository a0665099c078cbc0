//! The keyring and the store must fit: replicas with different peppers would refuse each other's
//! keys, so one that differs does not start.

use crate::hash::Keyring;
use crate::key::PepperId;
use crate::store::{Store, StoreError};

/// Compares the keyring with what the store knows, and makes new peppers known to it. `retired`
/// are peppers that were taken out of the keyring on purpose: the store forgets them.
///
/// # Errors
/// [`StoreError::Refused`] when the keyring lacks a pepper that the store knows, or has another
/// one under the same id; other errors when the store did not answer.
pub async fn reconcile(store: &dyn Store, keyring: &Keyring, retired: &[PepperId]) -> Result<(), StoreError> {
    for (id, check) in store.pepper_checks().await? {
        match keyring.peppers().find(|pepper| *pepper.id() == id) {
            Some(pepper) if *pepper.check() == check => {}
            Some(_) => return Err(differs(&id)),
            None if retired.contains(&id) => store.remove_pepper_check(&id).await?,
            None => {
                return Err(StoreError::Refused(format!(
                    "keyring.file: the store knows a pepper `{id}` that the keyring lacks; keys made under it would \
                     be refused. Use the keyring of the other replicas, or retire the pepper with `keyclasp keyring \
                     retire {id}`"
                )));
            }
        }
    }
    for pepper in keyring.peppers() {
        if store.add_pepper_check(pepper.id(), *pepper.check()).await? != *pepper.check() {
            return Err(differs(pepper.id()));
        }
    }
    Ok(())
}

fn differs(id: &PepperId) -> StoreError {
    StoreError::Refused(format!(
        "keyring.file: the pepper `{id}` is not the one that this store's keys were made under; use the keyring of \
         the other replicas"
    ))
}
