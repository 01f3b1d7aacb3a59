//! Reading a folder: what is below it, by name and time, or all of it as an archive.

use std::collections::BTreeMap;
use std::io::{self, Write};

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use conclave_filesync::{Entry, FilePath, FileReader, FileSync, FileSyncError, Listing, Modified};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::TryStreamExt;
use http::header;
use tokio::runtime::Handle;
use tokio_util::io::{ReaderStream, SyncIoBridge};

use crate::FileServer;
use crate::error::FileServerError;

/// Bytes between whoever packs an archive and whoever receives it.
const PIPE_BYTES: usize = 256 << 10;
/// Where an archive says what it holds; agents read it.
const INDEX: &str = ".cloudify-index.json";

/// The files below a folder: their paths within it, and when they were modified.
pub(crate) fn list(server: &FileServer, folder: &FilePath) -> Result<Response, FileServerError> {
    Ok(Json(index(folder, &files_below(&server.files, folder)?)).into_response())
}

/// The files below a folder as a gzipped tar, with the list in it. It is packed while it is sent.
pub(crate) async fn archive(server: &FileServer, folder: &FilePath) -> Result<Response, FileServerError> {
    let below = files_below(&server.files, folder)?;
    let index = serde_json::to_vec(&index(folder, &below)).map_err(|error| FileServerError::System {
        what: "write the list of an archive",
        source: error.into(),
    })?;
    let (sink, source) = tokio::io::duplex(PIPE_BYTES);
    let (files, folder, handle) = (server.files.clone(), folder.clone(), Handle::current());
    // It ends when all is packed, or when the client is gone and the pipe with it.
    let _packing = tokio::task::spawn_blocking(move || {
        let sink = SyncIoBridge::new_with_handle(sink, handle.clone());
        if let Err(error) = pack(&files, &folder, &below, &index, &handle, sink) {
            // Without its end the archive does not unpack: the client sees that it lacks something.
            tracing::warn!(%folder, %error, "the archive of a folder breaks off");
        }
    });
    let kind = [(header::CONTENT_TYPE, "application/gzip")];
    Ok((kind, Body::from_stream(ReaderStream::new(source))).into_response())
}

fn files_below(files: &FileSync, folder: &FilePath) -> Result<Vec<Listing>, FileServerError> {
    let mut found = Vec::new();
    let mut open = vec![folder.clone()];
    while let Some(folder) = open.pop() {
        // A folder that has gone meanwhile is one with nothing in it.
        for child in files.list(&folder).unwrap_or_default() {
            match child.entry {
                Entry::Directory { .. } => open.push(child.path),
                Entry::File(_) => found.push(child),
                Entry::Symlink { .. } => {}
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The path of a file within a folder that it is in. Names that are no text are shown with marks in the place of their bytes.
fn within(folder: &FilePath, file: &FilePath) -> Vec<u8> {
    let rest = file.as_bytes().get(folder.as_bytes().len() + 1..);
    rest.unwrap_or_default().to_vec()
}

fn index(folder: &FilePath, files: &[Listing]) -> BTreeMap<String, String> {
    let line = |file: &Listing| {
        let name = String::from_utf8_lossy(&within(folder, &file.path)).into_owned();
        let modified = file.entry.file().map(|file| file.modified).unwrap_or_default();
        (name, shown(modified))
    };
    files.iter().map(line).collect()
}

/// ISO 8601 with a zone.
fn shown(modified: Modified) -> String {
    let nanoseconds = i32::try_from(modified.nanoseconds).unwrap_or_default();
    let time = jiff::Timestamp::new(modified.seconds, nanoseconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.to_zoned(jiff::tz::TimeZone::UTC)
        .strftime("%Y-%m-%dT%H:%M:%S%.f%:z")
        .to_string()
}

fn pack(
    files: &FileSync,
    folder: &FilePath,
    below: &[Listing],
    index: &[u8],
    handle: &Handle,
    sink: impl Write,
) -> Result<(), FileServerError> {
    let failed = || FileServerError::system("pack an archive");
    let mut archive = tar::Builder::new(GzEncoder::new(sink, Compression::fast()));
    let mut about = tar::Header::new_gnu();
    about.set_size(index.len() as u64);
    about.set_mode(0o644);
    archive.append_data(&mut about, INDEX, index).map_err(failed())?;
    for file in below {
        let reader = match handle.block_on(files.open(&file.path)) {
            Ok(reader) => reader,
            // It has been removed since it was listed.
            Err(FileSyncError::NotFound(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut about = tar::Header::new_gnu();
        about.set_size(reader.size());
        about.set_mode(reader.mode());
        about.set_mtime(u64::try_from(reader.modified().seconds).unwrap_or_default());
        let name = within(folder, &file.path);
        archive
            .append_data(&mut about, as_path(&name), contents(reader, handle))
            .map_err(failed())?;
    }
    let mut sink = archive.into_inner().and_then(GzEncoder::finish).map_err(failed())?;
    sink.flush().map_err(failed())
}

fn as_path(name: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt;
    std::path::Path::new(std::ffi::OsStr::from_bytes(name))
}

/// The bytes of a file, for whoever reads without waiting for others.
fn contents(reader: FileReader, handle: &Handle) -> impl io::Read {
    let pieces = Box::pin(reader.read_all().map_err(io::Error::other));
    SyncIoBridge::new_with_handle(tokio_util::io::StreamReader::new(pieces), handle.clone())
}
