//! Writing: files of deployments, by workers that have no shared tree (spec/rest-api.md, section 13).

use std::fs::File;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::extract::{FromRequest, Multipart, Query, Request, State};
use axum::http::StatusCode;
use conclave_archive::Limits;
use conclave_filesync::{Expected, FilePath, Modified};
use futures::{Stream, StreamExt};
use http::{HeaderMap, Uri, header};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::error::FileServerError;
use crate::{FileServer, encoded};

const MODE: u32 = 0o644;
/// After so many bytes it is looked at whether the disk takes more.
const LOOK_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
pub(crate) struct Wanted {
    /// The body is an archive: what it holds is put below the path, in one change.
    #[serde(default)]
    extract: bool,
}

/// An upload that has come in whole.
struct Upload {
    folder: TempDir,
    file: PathBuf,
    modified: Option<Modified>,
}

/// Stores the body as a file, or what is in it as files.
pub(crate) async fn put(
    State(server): State<FileServer>,
    Query(wanted): Query<Wanted>,
    uri: Uri,
    headers: HeaderMap,
    request: Request,
) -> Result<StatusCode, FileServerError> {
    let place = server.writable(encoded(&uri), &headers).await?;
    let upload = receive(&server, &headers, request).await?;
    if wanted.extract {
        let unpacking = blocking(move || {
            let files = unpacked(&upload, &place.path)?;
            Ok((upload, files))
        });
        // The upload holds the folder until its files have been taken from it.
        let (_upload, files) = unpacking.await?;
        server.files.put_trees(files).await?;
    } else {
        let failed = || FileServerError::system("read an upload");
        let file = File::open(&upload.file).map_err(failed())?;
        server.files.check_room(file.metadata().map_err(failed())?.len())?;
        server
            .files
            .put_file(&place.path, file, MODE, upload.modified, Expected::Anything)
            .await?;
    }
    Ok(StatusCode::OK)
}

/// Removes a file, or a folder with all that is in it.
pub(crate) async fn delete(
    State(server): State<FileServer>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<StatusCode, FileServerError> {
    let place = server.writable(encoded(&uri), &headers).await?;
    if server.files.entry(&place.path).is_none() {
        return Err(FileServerError::NotFound(place.path.to_string()));
    }
    server.files.remove(&place.path).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The body to its end, on this node's disk: an upload that breaks off changes nothing, and one that has no room is not begun.
async fn receive(server: &FileServer, headers: &HeaderMap, request: Request) -> Result<Upload, FileServerError> {
    server.files.check_upload(said_length(headers))?;
    let folder = tempfile::Builder::new()
        .prefix("resource-")
        .tempdir_in(&server.work_dir)
        .map_err(FileServerError::system("make a folder for an upload"))?;
    let file = folder.path().join("upload");
    let mut modified = None;
    let in_parts = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("multipart/form-data"));
    if in_parts {
        let mut parts = Multipart::from_request(request, &()).await.map_err(broken)?;
        let mut came = false;
        while let Some(part) = parts.next_field().await.map_err(broken)? {
            match part.name() {
                Some("file") => {
                    store(server, part, &file).await?;
                    came = true;
                }
                Some("mtime") => modified = Some(time(&part.text().await.map_err(broken)?)?),
                _ => {}
            }
        }
        if !came {
            return Err(FileServerError::BadUpload("there is no part named `file` in it".into()));
        }
    } else {
        let body: Body = request.into_body();
        store(server, body.into_data_stream(), &file).await?;
    }
    Ok(Upload { folder, file, modified })
}

/// How long a body says that it is; one that does not say is looked at while it comes.
fn said_length(headers: &HeaderMap) -> u64 {
    let length = headers.get(header::CONTENT_LENGTH);
    length
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .unwrap_or_default()
}

async fn store<E: std::fmt::Display>(
    server: &FileServer,
    mut pieces: impl Stream<Item = Result<bytes::Bytes, E>> + Unpin,
    to: &Path,
) -> Result<(), FileServerError> {
    let failed = || FileServerError::system("write an upload");
    let mut file = tokio::fs::File::create(to).await.map_err(failed())?;
    let (mut came, mut looked_at) = (0, 0);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(broken)?;
        came += piece.len() as u64;
        if came - looked_at > LOOK_BYTES {
            looked_at = came;
            // What has come is on the disk already, or about to be.
            server.files.check_room(came)?;
        }
        file.write_all(&piece).await.map_err(failed())?;
    }
    file.flush().await.map_err(failed())
}

fn broken(error: impl std::fmt::Display) -> FileServerError {
    FileServerError::BadUpload(error.to_string())
}

/// A time as the agents send it: seconds since 1970, or ISO 8601.
fn time(text: &str) -> Result<Modified, FileServerError> {
    let given = text.trim();
    let stamp = match given.split_once('.').unwrap_or((given, "")).0.parse::<i64>() {
        Ok(seconds) => jiff::Timestamp::from_second(seconds).ok(),
        Err(_) => given.parse().ok(),
    };
    let stamp = stamp.ok_or_else(|| FileServerError::BadUpload(format!("mtime {given:?} is no time")))?;
    Ok(Modified {
        seconds: stamp.as_second(),
        nanoseconds: u32::try_from(stamp.subsec_nanosecond()).unwrap_or_default(),
    })
}

/// A file that is put, as [`conclave_filesync::FileSync::put_trees`] takes it.
type Put = (Vec<u8>, PathBuf, Expected);

/// Unpacks an upload and names each file in it with the place where it goes. Blocks.
fn unpacked(upload: &Upload, to: &FilePath) -> Result<Vec<Put>, FileServerError> {
    use std::os::unix::ffi::OsStrExt;
    let failed = || FileServerError::system("read an unpacked upload");
    let folder = upload.folder.path().join("unpacked");
    std::fs::create_dir(&folder).map_err(failed())?;
    conclave_archive::unpack(&upload.file, &folder, &Limits::default())?;
    let mut files = Vec::new();
    let mut open = vec![(folder, to.clone())];
    while let Some((inside, place)) = open.pop() {
        for child in std::fs::read_dir(&inside).map_err(failed())? {
            let child = child.map_err(failed())?;
            let name = child.file_name();
            let refused = |_| FileServerError::BadUpload(format!("{name:?} is no name that can be stored"));
            let place = place.join(name.as_bytes()).map_err(refused)?;
            if child.file_type().map_err(failed())?.is_dir() {
                open.push((child.path(), place));
            } else {
                files.push((place.as_bytes().to_vec(), child.path(), Expected::Anything));
            }
        }
    }
    Ok(files)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FileServerError> + Send + 'static,
) -> Result<T, FileServerError> {
    let lost = |error: tokio::task::JoinError| FileServerError::System {
        what: "unpack an upload",
        source: error.into(),
    };
    tokio::task::spawn_blocking(work).await.map_err(lost)?
}
