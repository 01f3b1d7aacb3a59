//! What an operator's command line asks of a node: the service, and its client.

use std::io::{self, Read};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use conclave_catalog::files::{ContentHash, Entry, Expected, FilePath, Modified};
use conclave_net::{NodeIdentity, PeerConnector};
use conclave_proto::files as proto;
use conclave_proto::files::operator_client::OperatorClient;
use conclave_proto::files::operator_server::Operator;
use futures::{Stream, StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::FileSyncError;
use crate::handle::{FileSync, Listing};
use crate::status::{FilesStatus, ScrubReport};
use crate::transfer::Members;

/// Questions that are answered from memory.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// A large file takes its time, but not between two pieces.
const PIECE_TIMEOUT: Duration = Duration::from_secs(120);
const SCRUB_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const PIECE_BYTES: usize = 256 << 10;
const WAITING: usize = 4;

/// Something in the tree, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Where; bytes that are no text are escaped.
    pub path: FilePath,
    /// `file`, `directory` or `symlink`.
    pub kind: String,
    /// Of a file, in bytes.
    pub size: Option<u64>,
    /// Permission bits, octal.
    pub mode: Option<String>,
    /// Of a file: seconds since 1970, UTC.
    pub modified: Option<i64>,
    /// Of a file: names its content.
    pub content: Option<ContentHash>,
    /// Of a link: where it points.
    pub target: Option<String>,
    /// The version of the manifest that put it there.
    pub version: u64,
    /// Of a previous version: the version that replaced or removed it.
    pub until: Option<u64>,
}

impl Shown {
    fn of(path: &FilePath, entry: &Entry, version: u64, until: Option<u64>) -> Self {
        let mut shown = Self {
            path: path.clone(),
            kind: "directory".into(),
            size: None,
            mode: None,
            modified: None,
            content: None,
            target: None,
            version,
            until,
        };
        match entry {
            Entry::Directory { mode } => shown.mode = Some(format!("{mode:04o}")),
            Entry::Symlink { target } => {
                shown.kind = "symlink".into();
                shown.target = Some(target.to_string());
            }
            Entry::File(file) => {
                shown.kind = "file".into();
                shown.size = Some(file.size);
                shown.mode = Some(format!("{:04o}", file.mode));
                shown.modified = Some(file.modified.seconds);
                shown.content = Some(file.content);
            }
        }
        shown
    }
}

pub(crate) struct OperatorService {
    pub(crate) members: Members,
    pub(crate) files: FileSync,
}

fn json<T: Serialize>(value: &T) -> Result<Response<proto::JsonReply>, Status> {
    let json = serde_json::to_vec(value).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Response::new(proto::JsonReply { json: json.into() }))
}

fn refused(error: FileSyncError) -> Status {
    let text = error.to_string();
    match error {
        FileSyncError::NotFound(_) => Status::not_found(text),
        FileSyncError::Refused(..) | FileSyncError::Path { .. } => Status::invalid_argument(text),
        FileSyncError::Conflict(_) => Status::failed_precondition(text),
        FileSyncError::DiskFull { .. } => Status::resource_exhausted(text),
        FileSyncError::System { .. } | FileSyncError::Net(_) => Status::internal(text),
        _ => Status::unavailable(text),
    }
}

fn expected(given: Option<proto::Expected>) -> Expected {
    match given {
        None => Expected::Anything,
        Some(proto::Expected { version: 0 }) => Expected::Nothing,
        Some(proto::Expected { version }) => Expected::Version(version),
    }
}

#[derive(Serialize, Deserialize)]
struct Version {
    version: u64,
}

#[tonic::async_trait]
impl Operator for OperatorService {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<proto::Piece, Status>> + Send>>;

    async fn status(&self, request: Request<proto::StatusRequest>) -> Result<Response<proto::JsonReply>, Status> {
        self.members.check(&request)?;
        json(&self.files.status())
    }

    async fn list(&self, request: Request<proto::PathRequest>) -> Result<Response<proto::JsonReply>, Status> {
        self.members.check(&request)?;
        let path = request.into_inner().path;
        let listed = match self.files.list(&path) {
            Some(children) => children,
            None => {
                let found = self.files.entry(&path).map(|found| vec![found]);
                found.ok_or_else(|| Status::not_found(format!("{} was not found", String::from_utf8_lossy(&path))))?
            }
        };
        let shown = |listing: &Listing| Shown::of(&listing.path, &listing.entry, listing.version, None);
        json(&listed.iter().map(shown).collect::<Vec<_>>())
    }

    async fn versions(&self, request: Request<proto::PathRequest>) -> Result<Response<proto::JsonReply>, Status> {
        self.members.check(&request)?;
        let path = request.into_inner().path;
        let at = crate::error::parse(&path).map_err(refused)?;
        let past = self.files.versions(&path).map_err(refused)?;
        let mut shown: Vec<Shown> = past
            .iter()
            .map(|past| Shown::of(&at, &past.entry, past.version, Some(past.until)))
            .collect();
        shown.extend(
            self.files
                .entry(&path)
                .map(|found| Shown::of(&at, &found.entry, found.version, None)),
        );
        if shown.is_empty() {
            return Err(Status::not_found(format!("{at} was not found, nor any version of it")));
        }
        json(&shown)
    }

    async fn read(&self, request: Request<proto::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        self.members.check(&request)?;
        let asked = request.into_inner();
        let reader = match asked.version {
            0 => self.files.open(&asked.path).await,
            version => self.files.open_version(&asked.path, version).await,
        };
        let pieces = reader.map_err(refused)?.read_all();
        let pieces = pieces.map_ok(|data| proto::Piece { data }).map_err(refused);
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn put(&self, request: Request<Streaming<proto::PutPiece>>) -> Result<Response<proto::JsonReply>, Status> {
        self.members.check(&request)?;
        let mut pieces = request.into_inner();
        let first = pieces.message().await?.unwrap_or_default();
        let header = first
            .header
            .ok_or_else(|| Status::invalid_argument("the first piece has no header"))?;
        self.files.check_room(header.size).map_err(refused)?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let source = Incoming {
            pieces: receiver,
            present: first.data,
        };
        let modified = Modified {
            seconds: header.modified_seconds,
            nanoseconds: header.modified_nanoseconds,
        };
        let expected = expected(header.expected);
        let putting = self
            .files
            .put_file(&header.path, source, header.mode, Some(modified), expected);
        let receiving = async move {
            loop {
                let (last, piece) = match pieces.message().await {
                    Ok(None) => break,
                    Ok(Some(piece)) => (false, Ok(piece.data)),
                    Err(status) => (true, Err(io::Error::other(status.message().to_owned()))),
                };
                if sender.send(piece).await.is_err() || last {
                    break;
                }
            }
            // That is the end of the file to whoever reads it.
            drop(sender);
        };
        let (version, ()) = tokio::join!(putting, receiving);
        json(&Version {
            version: version.map_err(refused)?,
        })
    }

    async fn remove(&self, request: Request<proto::ChangeRequest>) -> Result<Response<proto::JsonReply>, Status> {
        self.members.check(&request)?;
        let asked = request.into_inner();
        if self.files.entry(&asked.path).is_none() {
            let name = String::from_utf8_lossy(&asked.path).into_owned();
            return Err(refused(FileSyncError::NotFound(name)));
        }
        let removed = self.files.remove_if(&asked.path, expected(asked.expected)).await;
        json(&Version {
            version: removed.map_err(refused)?,
        })
    }

    async fn restore(&self, request: Request<proto::ChangeRequest>) -> Result<Response<proto::JsonReply>, Status> {
        self.members.check(&request)?;
        let asked = request.into_inner();
        let version = (asked.version != 0).then_some(asked.version);
        let restored = self.files.restore(&asked.path, version).await;
        json(&Version {
            version: restored.map_err(refused)?,
        })
    }

    async fn scrub(&self, request: Request<proto::ScrubRequest>) -> Result<Response<proto::JsonReply>, Status> {
        self.members.check(&request)?;
        json(&self.files.scrub().await.map_err(refused)?)
    }
}

/// What comes over the network, as something that a thread reads.
struct Incoming {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    present: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.present.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.present = piece?,
            }
        }
        let length = buffer.len().min(self.present.len());
        buffer[..length].copy_from_slice(&self.present.split_to(length));
        Ok(length)
    }
}

/// Asks a running node about its files. Cheap to clone.
#[derive(Clone)]
pub struct FilesClient {
    client: OperatorClient<Channel>,
}

impl FilesClient {
    /// A client of the node whose identity this is, at its address and port for files.
    ///
    /// # Errors
    /// When the identity or the address cannot be used.
    pub fn new(identity: &NodeIdentity, address: &str, port: u16) -> Result<Self, FileSyncError> {
        let channel = PeerConnector::new(identity)?.channel(identity.node_id, address, port)?;
        Ok(Self {
            client: OperatorClient::new(channel),
        })
    }

    async fn call<T, F>(&self, limit: Duration, call: F) -> Result<T, FileSyncError>
    where
        T: DeserializeOwned,
        F: Future<Output = Result<Response<proto::JsonReply>, Status>>,
    {
        let late = || FileSyncError::Remote(format!("the node did not answer within {} s", limit.as_secs()));
        let answer = tokio::time::timeout(limit, call).await.map_err(|_| late())?;
        let json = answer.map_err(|status| said(&status))?.into_inner().json;
        serde_json::from_slice(&json).map_err(|error| FileSyncError::Remote(format!("unreadable answer: {error}")))
    }

    /// How far the node's tree is.
    ///
    /// # Errors
    /// [`FileSyncError::Remote`] when it does not answer.
    pub async fn status(&self) -> Result<FilesStatus, FileSyncError> {
        let mut client = self.client.clone();
        self.call(CALL_TIMEOUT, client.status(proto::StatusRequest {})).await
    }

    /// What is in a folder, or the one thing at a path.
    ///
    /// # Errors
    /// [`FileSyncError::Remote`] when there is nothing.
    pub async fn list(&self, path: &[u8]) -> Result<Vec<Shown>, FileSyncError> {
        let mut client = self.client.clone();
        let path = Bytes::copy_from_slice(path);
        self.call(CALL_TIMEOUT, client.list(proto::PathRequest { path })).await
    }

    /// The versions of a path, the present one last.
    ///
    /// # Errors
    /// [`FileSyncError::Remote`] when there is none.
    pub async fn versions(&self, path: &FilePath) -> Result<Vec<Shown>, FileSyncError> {
        let mut client = self.client.clone();
        let path = Bytes::copy_from_slice(path.as_bytes());
        self.call(CALL_TIMEOUT, client.versions(proto::PathRequest { path }))
            .await
    }

    /// A file's content, or that of one of its versions, written to `out`. How many bytes.
    ///
    /// # Errors
    /// [`FileSyncError::Remote`] when it is not there, or cannot be read to its end.
    pub async fn read(
        &self,
        path: &FilePath,
        version: Option<u64>,
        out: &mut impl io::Write,
    ) -> Result<u64, FileSyncError> {
        let mut client = self.client.clone().max_decoding_message_size(16 << 20);
        let request = proto::ReadRequest {
            path: Bytes::copy_from_slice(path.as_bytes()),
            version: version.unwrap_or_default(),
        };
        let late = |_| FileSyncError::Remote("the node did not answer in time".into());
        let answer = tokio::time::timeout(CALL_TIMEOUT, client.read(request))
            .await
            .map_err(late)?;
        let mut pieces = answer.map_err(|status| said(&status))?.into_inner();
        let mut bytes = 0;
        loop {
            let piece = tokio::time::timeout(PIECE_TIMEOUT, pieces.message())
                .await
                .map_err(late)?;
            let Some(piece) = piece.map_err(|status| said(&status))? else {
                return Ok(bytes);
            };
            bytes += piece.data.len() as u64;
            out.write_all(&piece.data)
                .map_err(FileSyncError::system("write", "the output"))?;
        }
    }

    /// Puts a file, whose size may be known. The version that it made.
    ///
    /// # Errors
    /// [`FileSyncError::Remote`] with the node's reason, and what the source's reader says; nothing is changed then.
    pub async fn put(
        &self,
        path: &FilePath,
        mut source: impl Read + Send + 'static,
        size: Option<u64>,
        mode: u32,
        modified: Modified,
        expected: Expected,
    ) -> Result<u64, FileSyncError> {
        let mut client = self.client.clone();
        let header = proto::PutHeader {
            path: Bytes::copy_from_slice(path.as_bytes()),
            mode,
            modified_seconds: modified.seconds,
            modified_nanoseconds: modified.nanoseconds,
            expected: given(expected),
            size: size.unwrap_or_default(),
        };
        let (sender, receiver) = mpsc::channel(WAITING);
        // A stream that ends is a file that is whole: until the source has said that it is, this keeps it open.
        let whole = sender.clone();
        let mut reading = tokio::task::spawn_blocking(move || {
            let mut header = Some(header);
            loop {
                let mut data = Vec::with_capacity(PIECE_BYTES);
                let read = source.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut data)?;
                let piece = proto::PutPiece {
                    header: header.take(),
                    data: data.into(),
                };
                let first = piece.header.is_some();
                if (read == 0 && !first) || sender.blocking_send(piece).is_err() {
                    return io::Result::Ok(());
                }
            }
        });
        let putting = self.call(SCRUB_TIMEOUT, client.put(ReceiverStream::new(receiver).boxed()));
        let mut putting = std::pin::pin!(putting);
        let sent: Version = tokio::select! {
            // It was refused before its end.
            sent = &mut putting => sent?,
            read = &mut reading => {
                let read = read.map_err(|_| FileSyncError::CutOff)?;
                read.map_err(FileSyncError::system("read", "the input"))?;
                drop(whole);
                putting.await?
            }
        };
        Ok(sent.version)
    }

    /// Removes what is at and below a path. The version that this made.
    ///
    /// # Errors
    /// [`FileSyncError::Remote`] with the node's reason.
    pub async fn remove(&self, path: &FilePath, expected: Expected) -> Result<u64, FileSyncError> {
        let mut client = self.client.clone();
        let request = change(path, None, expected);
        let done: Version = self.call(CALL_TIMEOUT, client.remove(request)).await?;
        Ok(done.version)
    }

    /// Makes a previous version the present one. The version that this made.
    ///
    /// # Errors
    /// [`FileSyncError::Remote`] with the node's reason.
    pub async fn restore(&self, path: &FilePath, version: Option<u64>) -> Result<u64, FileSyncError> {
        let mut client = self.client.clone();
        let request = change(path, version, Expected::Anything);
        let done: Version = self.call(CALL_TIMEOUT, client.restore(request)).await?;
        Ok(done.version)
    }

    /// Has the node read everything, and waits for what it found.
    ///
    /// # Errors
    /// [`FileSyncError::Remote`] with the node's reason.
    pub async fn scrub(&self) -> Result<ScrubReport, FileSyncError> {
        let mut client = self.client.clone();
        self.call(SCRUB_TIMEOUT, client.scrub(proto::ScrubRequest {})).await
    }
}

fn change(path: &FilePath, version: Option<u64>, expected: Expected) -> proto::ChangeRequest {
    proto::ChangeRequest {
        path: Bytes::copy_from_slice(path.as_bytes()),
        version: version.unwrap_or_default(),
        expected: given(expected),
    }
}

fn given(expected: Expected) -> Option<proto::Expected> {
    match expected {
        Expected::Version(version) => Some(proto::Expected { version }),
        Expected::Nothing => Some(proto::Expected { version: 0 }),
        Expected::Anything | Expected::Childless => None,
    }
}

fn said(status: &Status) -> FileSyncError {
    FileSyncError::Remote(match status.code() {
        tonic::Code::Unavailable
            if status.message().contains("tcp connect error") || status.message().contains("transport") =>
        {
            format!("the node does not answer; does it run? ({})", status.message())
        }
        _ => status.message().to_owned(),
    })
}
