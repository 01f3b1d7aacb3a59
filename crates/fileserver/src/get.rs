//! Reading a file.

use std::ops::Range;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use conclave_filesync::{Entry, FilePath, FileReader};
use futures::TryStreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use serde::Deserialize;

use crate::conditional::{Selected, Verdict, judge, whole_seconds};
use crate::error::FileServerError;
use crate::folder;
use crate::place::Place;
use crate::{FileServer, encoded};

/// Links on the way to a file.
const LINKS_MAX: usize = 8;

#[derive(Deserialize)]
pub(crate) struct Wanted {
    /// A folder as an archive.
    #[serde(default)]
    archive: bool,
}

/// Answers GET and HEAD.
pub(crate) async fn answer(
    State(server): State<FileServer>,
    Query(wanted): Query<Wanted>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, FileServerError> {
    let place = server.readable(encoded(&uri), &headers).await?;
    let missing = || FileServerError::NotFound(place.path.to_string());
    let (path, found) = resolve(&server, &place).ok_or_else(missing)?;
    match (found, place.as_folder) {
        (Entry::Directory { .. }, true) if wanted.archive => folder::archive(&server, &path).await,
        (Entry::Directory { .. }, true) => folder::list(&server, &path),
        (Entry::Directory { .. }, false) => Err(FileServerError::IsFolder(place.path.to_string())),
        (Entry::File(_), false) => {
            let reader = server.files.open(&path).await?;
            Ok(file(&path, reader, &headers))
        }
        _ => Err(missing()),
    }
}

/// What is at a place, behind links. A link leads only to where the same readers may read: asking for one place must not show another's.
fn resolve(server: &FileServer, place: &Place) -> Option<(FilePath, Entry)> {
    let mut path = place.path.clone();
    for _ in 0..LINKS_MAX {
        let found = server.files.entry(&path)?;
        let Entry::Symlink { target } = &found.entry else {
            return Some((path, found.entry));
        };
        path = behind(&path, target.as_bytes())?;
        if Place::at(path.clone(), false)?.readers != place.readers {
            return None;
        }
    }
    None
}

/// Where a link points, by its words.
fn behind(link: &FilePath, target: &[u8]) -> Option<FilePath> {
    let mut parts: Vec<&[u8]> = link.as_bytes().split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    FilePath::new(parts.join(&b'/')).ok()
}

/// The file, or what of it the client wants.
fn file(path: &FilePath, reader: FileReader, headers: &HeaderMap) -> Response {
    let selected = Selected {
        tag: format!("\"{}\"", reader.content()),
        modified: whole_seconds(reader.modified().seconds),
        size: reader.size(),
    };
    let (status, part) = match judge(headers, &selected) {
        Verdict::Whole => (StatusCode::OK, Some(0..selected.size)),
        Verdict::Part(part) => (StatusCode::PARTIAL_CONTENT, Some(part)),
        Verdict::NotModified => (StatusCode::NOT_MODIFIED, None),
        Verdict::OtherVersion => (StatusCode::PRECONDITION_FAILED, None),
        Verdict::OutOfRange => (StatusCode::RANGE_NOT_SATISFIABLE, None),
    };
    let mut response = match &part {
        Some(part) => body(path, &reader, part).into_response(),
        None => ().into_response(),
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let mut put = |name, value: String| {
        // All of them are made of digits, hexadecimal digits and letters.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    put(header::ETAG, selected.tag.clone());
    put(header::LAST_MODIFIED, httpdate::fmt_http_date(selected.modified));
    put(header::ACCEPT_RANGES, "bytes".into());
    match (status, part) {
        (StatusCode::PARTIAL_CONTENT, Some(Range { start, end })) => {
            put(
                header::CONTENT_RANGE,
                format!("bytes {start}-{}/{}", end - 1, selected.size),
            );
            put(header::CONTENT_LENGTH, (end - start).to_string());
            put(header::CONTENT_TYPE, kind(path));
        }
        (_, Some(part)) => {
            put(header::CONTENT_LENGTH, (part.end - part.start).to_string());
            put(header::CONTENT_TYPE, kind(path));
        }
        (StatusCode::RANGE_NOT_SATISFIABLE, None) => put(header::CONTENT_RANGE, format!("bytes */{}", selected.size)),
        _ => {}
    }
    response
}

/// By its name: contents are not looked at.
fn kind(path: &FilePath) -> String {
    let name = String::from_utf8_lossy(path.name()).into_owned();
    mime_guess::from_path(name).first_or_octet_stream().to_string()
}

/// The bytes, verified piece by piece. When one cannot be had, the connection breaks off: the client sees that it lacks something.
fn body(path: &FilePath, reader: &FileReader, part: &Range<u64>) -> Body {
    let path = path.clone();
    let pieces = reader.read_range(part.start, part.end - part.start);
    Body::from_stream(pieces.inspect_err(move |error| tracing::warn!(%path, %error, "a download breaks off")))
}
