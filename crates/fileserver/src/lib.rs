//! The file server behind `/resources`, on 53333 and 443 (spec/rest-api.md, section 13): resource files for whoever may have them.
//!
//! A file is served from the version that the manifest names, whole or in ranges, and what this node lacks of it streams from a peer.
//! It knows paths, tenants and HTTP; what the files mean it does not know, nor how they come to be on every node.

mod conditional;
mod error;
mod folder;
mod get;
mod place;
mod write;

use std::path::PathBuf;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use conclave_auth::{Authenticator, Credentials, Principal};
use conclave_filesync::FileSync;
use conclave_store::Store;
use http::HeaderMap;

use crate::error::FileServerError;
use crate::place::{Place, Readers};

/// An upload through the file server, in bytes.
const UPLOAD_BYTES_MAX: usize = 10 << 30;

/// What the file server is made of. Cheap to clone.
#[derive(Clone)]
pub struct FileServer {
    /// The files.
    pub files: FileSync,
    /// The record: which tenants there are, and which blueprints are for all.
    pub store: Store,
    /// Who is who.
    pub authenticator: Authenticator,
    /// Where uploads lie until they are whole.
    pub work_dir: PathBuf,
}

/// Its routes.
pub fn router(server: FileServer) -> Router {
    let methods = get(get::answer)
        .put(write::put)
        .post(write::put)
        .delete(write::delete)
        .layer(DefaultBodyLimit::max(UPLOAD_BYTES_MAX));
    Router::new().route("/resources/{*path}", methods).with_state(server)
}

impl FileServer {
    /// The place that a request names, if the caller may read it.
    async fn readable(&self, encoded: &str, headers: &HeaderMap) -> Result<Place, FileServerError> {
        let place = self.place(encoded)?;
        if place.readers != Readers::Anybody {
            let principal = self.principal(headers).await?;
            self.may_read(&principal, &place.readers).await?;
        }
        Ok(place)
    }

    /// The place that a request names, if the caller may write it.
    async fn writable(&self, encoded: &str, headers: &HeaderMap) -> Result<Place, FileServerError> {
        let place = self.place(encoded)?;
        let principal = self.principal(headers).await?;
        let Some(tenant) = place.writable_in() else {
            return Err(FileServerError::ReadOnly(place.path.to_string()));
        };
        self.tenant_exists(tenant).await?;
        principal.authorize("deployment_update", Some(tenant))?;
        Ok(place)
    }

    fn place(&self, encoded: &str) -> Result<Place, FileServerError> {
        Place::of(encoded).ok_or_else(|| FileServerError::NotFound(encoded.to_owned()))
    }

    async fn principal(&self, headers: &HeaderMap) -> Result<Principal, FileServerError> {
        let credentials = Credentials::from_headers(headers);
        Ok(self.authenticator.authenticate(&credentials).await?)
    }

    async fn may_read(&self, principal: &Principal, readers: &Readers) -> Result<(), FileServerError> {
        match readers {
            Readers::Anybody | Readers::LoggedIn => Ok(()),
            Readers::Administrators => Ok(principal.authorize("snapshot_download", None)?),
            Readers::InTenant { tenant, blueprint } => {
                self.tenant_exists(tenant).await?;
                let refused = match principal.authorize("file_server_auth", Some(tenant)) {
                    Ok(()) => return Ok(()),
                    Err(refused) => refused,
                };
                match blueprint {
                    Some(blueprint) if self.store.blueprint_is_global(tenant, blueprint).await? => Ok(()),
                    _ => Err(refused.into()),
                }
            }
        }
    }

    async fn tenant_exists(&self, tenant: &str) -> Result<(), FileServerError> {
        if self.store.tenant_exists(tenant).await? {
            Ok(())
        } else {
            Err(FileServerError::NotFound(format!("the tenant {tenant}")))
        }
    }
}

/// What follows `/resources/` in a request, as it was sent: names are bytes, and need not be UTF-8 when they are decoded.
fn encoded(uri: &http::Uri) -> &str {
    let path = uri.path();
    path.strip_prefix("/resources/").unwrap_or(path)
}
