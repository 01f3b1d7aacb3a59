//! The place where backups are kept: a directory or a bucket, the same to all else.
//!
//! ```text
//! SYSTEM_ID/base/ID/begun.json      the backup has a name
//! SYSTEM_ID/base/ID/data.0000 …     its pieces
//! SYSTEM_ID/base/ID/manifest.json   it is whole
//! SYSTEM_ID/base/ID/verified.json   it was read back
//! SYSTEM_ID/wal/SEGMENT.gz          a segment of the log
//! SYSTEM_ID/wal/TIMELINE.history
//! ```
//!
//! What belongs to a name never changes: all but `verified.json` is written once, and writing it again with other content is
//! refused by the place itself.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use conclave_config::S3Section;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutOptions};

use crate::BackupError;
use crate::manifest::{Manifest, VERSION, Verified};
use crate::plan::Inventory;
use crate::s3::{self, Store};
use crate::wal::{History, SEGMENT_BYTES, Segment, history_name, parse_history_name};

/// The open place. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Depot {
    store: Store,
    place: Arc<str>,
    prefix: Path,
}

/// What is kept of one database, and what is left of backups that were never completed.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// What can be used.
    pub inventory: Inventory,
    /// Which of the backups were read back.
    pub verified: BTreeMap<String, Verified>,
    /// Begun, and not whole: still being written, or given up.
    pub incomplete: Vec<String>,
    /// Bytes of the archived log where it is kept.
    pub archive_bytes: u64,
    /// When a segment came in last.
    pub archived_at: Option<jiff::Timestamp>,
}

impl Depot {
    /// Opens the place, an absolute path or `s3://bucket/prefix`; a directory is made, readable by its owner alone.
    ///
    /// # Errors
    /// When the target is malformed, or its credentials cannot be read.
    pub fn open(target: &str, s3: &S3Section) -> Result<Self, BackupError> {
        let (store, prefix): (Store, &str) = match target.strip_prefix("s3://") {
            Some(rest) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                (Arc::new(s3::open(target, bucket, s3)?), prefix)
            }
            None if target.starts_with('/') => (Arc::new(open_directory(&PathBuf::from(target))?), ""),
            None => {
                return Err(BackupError::Target {
                    target: target.to_owned(),
                    reason: "it is neither an absolute path nor s3://bucket/prefix".into(),
                });
            }
        };
        Ok(Self {
            store,
            place: target.into(),
            prefix: Path::from(prefix),
        })
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn failed(&self, what: &str, name: &str) -> impl FnOnce(object_store::Error) -> BackupError {
        let (what, place) = (format!("{what} {name}"), self.place.to_string());
        move |source| BackupError::Depot {
            what,
            place,
            source: Box::new(source),
        }
    }

    /// Writes what is not there yet; `false` when something of that name is.
    async fn put_new(&self, name: &str, content: Bytes) -> Result<bool, BackupError> {
        let options = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&self.path(name), content.into(), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.failed("write", name)(error)),
        }
    }

    async fn put_once(&self, name: &str, content: Bytes) -> Result<(), BackupError> {
        if self.put_new(name, content.clone()).await? || self.get(name).await?.as_ref() == Some(&content) {
            return Ok(());
        }
        Err(self.conflict(name))
    }

    fn conflict(&self, name: &str) -> BackupError {
        BackupError::Conflict {
            name: name.to_owned(),
            place: self.place.to_string(),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, BackupError> {
        let read = async { self.store.get(&self.path(name)).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", name)(error)),
        }
    }

    async fn need(&self, name: &str) -> Result<Bytes, BackupError> {
        self.get(name).await?.ok_or_else(|| BackupError::Damaged {
            what: name.to_owned(),
            reason: "it is gone".into(),
        })
    }

    async fn remove(&self, name: &str) -> Result<(), BackupError> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("remove", name)(error)),
        }
    }

    /// What is below a folder: names relative to it, sizes, and times.
    async fn list(&self, folder: &str) -> Result<Vec<(String, u64, jiff::Timestamp)>, BackupError> {
        let path = self.path(folder);
        let found: Vec<object_store::ObjectMeta> = self
            .store
            .list(Some(&path))
            .try_collect()
            .await
            .map_err(self.failed("list", folder))?;
        let named = found.into_iter().filter_map(|meta| {
            let parts: Vec<String> = meta
                .location
                .prefix_match(&path)?
                .map(|part| part.as_ref().into())
                .collect();
            let at = jiff::Timestamp::from_second(meta.last_modified.timestamp()).unwrap_or_default();
            Some((parts.join("/"), meta.size, at))
        });
        Ok(named.collect())
    }

    /// The databases of which something is kept, by system identifier.
    ///
    /// # Errors
    /// When the place cannot be listed.
    pub async fn databases(&self) -> Result<Vec<String>, BackupError> {
        let listing = self.store.list_with_delimiter(Some(&self.prefix)).await;
        let listing = listing.map_err(self.failed("list", "databases"))?;
        let names = listing.common_prefixes.iter().filter_map(|path| path.filename());
        Ok(names.map(str::to_owned).collect())
    }

    /// What is kept of a database.
    ///
    /// # Errors
    /// When the place cannot be read, or a manifest is malformed.
    pub async fn contents(&self, system_id: &str) -> Result<Contents, BackupError> {
        let mut contents = Contents::default();
        let base = format!("{system_id}/base");
        let mut ids = std::collections::BTreeSet::new();
        for (name, _, _) in self.list(&base).await? {
            let Some((id, file)) = name.split_once('/') else {
                continue;
            };
            ids.insert(id.to_owned());
            let object = format!("{base}/{name}");
            let malformed = |error: serde_json::Error| BackupError::Damaged {
                what: object.clone(),
                reason: error.to_string(),
            };
            if file == "manifest.json" {
                let manifest: Manifest = serde_json::from_slice(&self.need(&object).await?).map_err(malformed)?;
                if manifest.version != VERSION {
                    let reason = format!("it is of version {}, this program reads {VERSION}", manifest.version);
                    return Err(BackupError::Damaged { what: object, reason });
                }
                contents.inventory.backups.insert(id.to_owned(), manifest);
            } else if file == "verified.json" {
                let verified = serde_json::from_slice(&self.need(&object).await?).map_err(malformed)?;
                contents.verified.insert(id.to_owned(), verified);
            }
        }
        let whole = &contents.inventory.backups;
        contents.incomplete = ids.into_iter().filter(|id| !whole.contains_key(id)).collect();
        for (name, bytes, at) in self.list(&format!("{system_id}/wal")).await? {
            if let Some(segment) = name.strip_suffix(".gz").and_then(Segment::parse) {
                contents.inventory.segments.insert(segment);
                contents.archive_bytes += bytes;
                contents.archived_at = contents.archived_at.max(Some(at));
            } else if let Some(timeline) = parse_history_name(&name) {
                let text = self.need(&format!("{system_id}/wal/{name}")).await?;
                let history = History::parse(timeline, &String::from_utf8_lossy(&text));
                contents.inventory.histories.insert(timeline, history);
            }
        }
        Ok(contents)
    }

    /// Archives a segment. One that is there already is compared: the same is success, any other is refused.
    ///
    /// # Errors
    /// [`BackupError::Conflict`], or the place refuses.
    pub async fn put_segment(&self, system_id: &str, segment: Segment, content: Bytes) -> Result<(), BackupError> {
        let name = format!("{system_id}/wal/{}.gz", segment.name());
        let plain = content.clone();
        let packed = offload(move || gzip(&content)).await;
        let packed = packed.map_err(BackupError::file("compress", &name))?;
        if self.put_new(&name, packed.into()).await? {
            return Ok(());
        }
        match self.segment(system_id, segment).await {
            Ok(there) if there == plain => Ok(()),
            Ok(_) | Err(BackupError::Damaged { .. }) => Err(self.conflict(&name)),
            Err(error) => Err(error),
        }
    }

    /// An archived segment.
    ///
    /// # Errors
    /// When it is not there or damaged.
    pub async fn segment(&self, system_id: &str, segment: Segment) -> Result<Bytes, BackupError> {
        let name = format!("{system_id}/wal/{}.gz", segment.name());
        let stored = self.need(&name).await?;
        let plain = offload(move || gunzip(&stored)).await;
        let damaged = |reason: String| BackupError::Damaged { what: name, reason };
        match plain {
            Ok(plain) if plain.len() as u64 == SEGMENT_BYTES => Ok(plain.into()),
            Ok(plain) => Err(damaged(format!("it has {} bytes", plain.len()))),
            Err(error) => Err(damaged(error.to_string())),
        }
    }

    /// Archives a timeline's history.
    ///
    /// # Errors
    /// [`BackupError::Conflict`] when that timeline has another history there.
    pub async fn put_history(&self, system_id: &str, timeline: u32, text: Bytes) -> Result<(), BackupError> {
        self.put_once(&format!("{system_id}/wal/{}", history_name(timeline)), text)
            .await
    }

    pub(crate) async fn history_text(&self, system_id: &str, timeline: u32) -> Result<Bytes, BackupError> {
        self.need(&format!("{system_id}/wal/{}", history_name(timeline))).await
    }

    /// Takes a name for a backup; `false` when it is taken.
    pub(crate) async fn begin(&self, system_id: &str, id: &str) -> Result<bool, BackupError> {
        self.put_new(&format!("{system_id}/base/{id}/begun.json"), Bytes::from_static(b"{}"))
            .await
    }

    pub(crate) async fn put_part(
        &self,
        system_id: &str,
        id: &str,
        part: &str,
        content: Bytes,
    ) -> Result<(), BackupError> {
        self.put_once(&format!("{system_id}/base/{id}/{part}"), content).await
    }

    pub(crate) async fn part(&self, system_id: &str, id: &str, part: &str) -> Result<Bytes, BackupError> {
        self.need(&format!("{system_id}/base/{id}/{part}")).await
    }

    pub(crate) async fn complete(&self, manifest: &Manifest) -> Result<(), BackupError> {
        let text = serde_json::to_vec_pretty(manifest).map_err(|error| BackupError::Nothing(error.to_string()))?;
        let name = format!("{}/base/{}/manifest.json", manifest.system_id, manifest.id);
        self.put_once(&name, text.into()).await
    }

    pub(crate) async fn set_verified(&self, manifest: &Manifest, verified: &Verified) -> Result<(), BackupError> {
        let text = serde_json::to_vec(verified).map_err(|error| BackupError::Nothing(error.to_string()))?;
        let name = format!("{}/base/{}/verified.json", manifest.system_id, manifest.id);
        let writing = self.store.put(&self.path(&name), Bytes::from(text).into()).await;
        writing.map(drop).map_err(self.failed("write", &name))
    }

    /// Removes a backup. What says that it is whole goes first.
    pub(crate) async fn remove_backup(&self, system_id: &str, id: &str) -> Result<(), BackupError> {
        let folder = format!("{system_id}/base/{id}");
        self.remove(&format!("{folder}/manifest.json")).await?;
        for (name, _, _) in self.list(&folder).await? {
            self.remove(&format!("{folder}/{name}")).await?;
        }
        Ok(())
    }

    pub(crate) async fn remove_segment(&self, system_id: &str, segment: Segment) -> Result<(), BackupError> {
        self.remove(&format!("{system_id}/wal/{}.gz", segment.name())).await
    }
}

fn open_directory(folder: &std::path::Path) -> Result<LocalFileSystem, BackupError> {
    if !folder.exists() {
        std::fs::create_dir_all(folder).map_err(BackupError::file("create", folder))?;
        // It will hold all that the database holds.
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(folder, private).map_err(BackupError::file("protect", folder))?;
    }
    let opened = LocalFileSystem::new_with_prefix(folder).map_err(|error| BackupError::Target {
        target: folder.display().to_string(),
        reason: error.to_string(),
    })?;
    Ok(opened.with_fsync(true).with_automatic_cleanup(true))
}

fn gzip(content: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content)?;
    encoder.finish()
}

fn gunzip(stored: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    GzDecoder::new(stored).take(SEGMENT_BYTES + 1).read_to_end(&mut plain)?;
    Ok(plain)
}

/// Runs what takes the processor for long off the threads that answer others.
pub(crate) async fn offload<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
