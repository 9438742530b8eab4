//! The audit log of a store.

use std::sync::Arc;

use async_trait::async_trait;

use super::entry::AuditEntry;
use super::query::AuditQuery;
use crate::key::StoreError;
use crate::page::Page;

/// The audit log of a [`KeyAdmin`](crate::key::KeyAdmin) store, which
/// [`KeyAdmin::audit_log`](crate::key::KeyAdmin::audit_log) returns.
///
/// Implement with `#[async_trait]` (re-exported as `keytally::async_trait`). The store writes the entries, each in
/// the same transaction as its change. Entries stay when their key is deleted.
///
/// ```
/// use keytally::backend::MemoryBackend;
/// use keytally::key::{Actor, AuditAction, AuditLog, AuditQuery, Issuer, NewKey};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryBackend::new();
/// let new = NewKey::new("Zapier integration");
/// let issued = Issuer::new("acme_live")?.issue(&store, new, Actor::new("anna@example.com")).await?;
///
/// let page = store.audit_entries(&AuditQuery::new().key(issued.key.id)).await?;
/// assert_eq!(page.items[0].action, AuditAction::Created);
/// assert_eq!(page.items[0].actor.as_deref(), Some("anna@example.com"));
/// # Ok(()) }
/// ```
#[async_trait]
pub trait AuditLog: Send + Sync + 'static {
    /// A page of entries, newest first.
    ///
    /// # Errors
    ///
    /// [`StoreError::Page`] if the page token is invalid.
    async fn audit_entries(&self, query: &AuditQuery) -> Result<Page<AuditEntry>, StoreError>;
}

macro_rules! forward_to_pointee {
    ($($pointer:ident),*) => {$(
        #[async_trait]
        impl<L: AuditLog + ?Sized> AuditLog for $pointer<L> {
            async fn audit_entries(
                &self,
                query: &AuditQuery,
            ) -> Result<Page<AuditEntry>, StoreError> {
                (**self).audit_entries(query).await
            }
        }
    )*};
}

forward_to_pointee!(Arc, Box);
