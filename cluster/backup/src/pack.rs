//! A data directory as pieces of a gzipped tar, and back. A piece is small enough to be held in memory and sent again.

use std::io::{self, Read, Write};
use std::path::Path;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::depot::offload;
use crate::manifest::{Manifest, Part};
use crate::{BackupError, Depot};

const PART_BYTES: usize = 32 << 20;
/// Pieces on their way. Each is held in memory.
const PARTS_AHEAD: usize = 1;

pub(crate) fn sha256(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// Sends a folder to the depot; the pieces that it became.
pub(crate) async fn send(depot: &Depot, system_id: &str, id: &str, folder: &Path) -> Result<Vec<Part>, BackupError> {
    let (pieces, mut ready) = mpsc::channel::<Bytes>(PARTS_AHEAD);
    let from = folder.to_owned();
    let packing = offload(move || pack(&from, pieces));
    // When sending fails the receiver goes with it, and packing ends.
    let sending = async move {
        let mut parts = Vec::new();
        while let Some(content) = ready.recv().await {
            let part = Part {
                name: format!("data.{:04}", parts.len()),
                bytes: content.len() as u64,
                sha256: sha256(&content),
            };
            depot.put_part(system_id, id, &part.name, content).await?;
            parts.push(part);
        }
        Ok::<_, BackupError>(parts)
    };
    let (packed, sent) = tokio::join!(packing, sending);
    let parts = sent?;
    packed.map_err(BackupError::file("pack", folder))?;
    Ok(parts)
}

/// Fetches a backup's pieces one after the other; each is checked before it is given on.
async fn fetch(depot: &Depot, manifest: &Manifest, pieces: Option<mpsc::Sender<Bytes>>) -> Result<(), BackupError> {
    for part in &manifest.parts {
        let content = depot.part(&manifest.system_id, &manifest.id, &part.name).await?;
        if content.len() as u64 != part.bytes || sha256(&content) != part.sha256 {
            return Err(BackupError::Damaged {
                what: format!("backup {}", manifest.id),
                reason: format!("the checksum of {} is another one", part.name),
            });
        }
        if let Some(pieces) = &pieces
            && pieces.send(content).await.is_err()
        {
            // Unpacking has failed, and says why.
            return Ok(());
        }
    }
    Ok(())
}

/// Reads a backup back where it is kept.
pub(crate) async fn check(depot: &Depot, manifest: &Manifest) -> Result<(), BackupError> {
    fetch(depot, manifest, None).await
}

/// Brings what is in a backup's data directory to `folder`.
pub(crate) async fn receive(depot: &Depot, manifest: &Manifest, folder: &Path) -> Result<(), BackupError> {
    let (pieces, ready) = mpsc::channel(PARTS_AHEAD);
    let to = folder.to_owned();
    let unpacking = offload(move || unpack(ready, &to));
    let (unpacked, fetched) = tokio::join!(unpacking, fetch(depot, manifest, Some(pieces)));
    fetched?;
    unpacked.map_err(BackupError::file("unpack", folder))
}

fn pack(folder: &Path, pieces: mpsc::Sender<Bytes>) -> io::Result<()> {
    let cutter = Cutter {
        pieces,
        piece: Vec::new(),
    };
    let mut tar = tar::Builder::new(GzEncoder::new(cutter, Compression::fast()));
    tar.follow_symlinks(false);
    tar.append_dir_all("", folder)?;
    let mut cutter = tar.into_inner()?.finish()?;
    cutter.cut()
}

fn unpack(ready: mpsc::Receiver<Bytes>, folder: &Path) -> io::Result<()> {
    let joiner = Joiner {
        ready,
        piece: Bytes::new(),
    };
    let mut archive = tar::Archive::new(GzDecoder::new(joiner));
    archive.set_preserve_permissions(true);
    archive.unpack(folder)
}

struct Cutter {
    pieces: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
}

impl Cutter {
    fn cut(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        if piece.is_empty() {
            return Ok(());
        }
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.pieces.blocking_send(piece.into()).map_err(gone)
    }
}

impl Write for Cutter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PART_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PART_BYTES {
            self.cut()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Joiner {
    ready: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Joiner {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.ready.blocking_recv().unwrap_or_default();
        }
        let taken = self.piece.split_to(self.piece.len().min(into.len()));
        into[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}
