//! Events of the disk, from where persons may put files.
//!
//! `notify` has one watch for each folder, and no more than that is left to it (docs/decisions/0024): a folder is watched before it is listed,
//! and what the listing finds is told like any event, so that whatever is made in it, before it is watched or after, is seen.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use conclave_catalog::files::FilePath;
use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Config, EventHandler, INotifyWatcher, RecursiveMode, Watcher as _};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::core::settle::Seen;
use crate::tree::{EDITABLE, Kind, children, is_editable, is_nothing, open_beneath, stamp_at};

/// Events that wait for the keeper.
const WAITING: usize = 8192;
/// Events that wait for the thread that looks into folders: as many as the system keeps by default.
const QUEUED: usize = 16_384;
/// Folders that could not be watched are tried again as often as this.
const RETRY: Duration = Duration::from_secs(10);
/// What the disk says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Seen(FilePath, Seen),
    /// Events were lost: everything has to be looked at.
    Lost,
    /// Not every folder can be watched.
    Blind(String),
    /// Every folder is watched again.
    Sighted,
}

#[derive(Clone, Copy)]
struct Limits {
    /// Folders that can be watched; the system has a limit of its own.
    watches: usize,
    /// `notify` remembers a folder that was deleted as long as it lives itself: after so many it begins anew.
    deleted: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            watches: usize::MAX,
            deleted: 50_000,
        }
    }
}

/// Watches as long as it lives.
pub(crate) struct Watch {
    pub(crate) events: mpsc::Receiver<Event>,
    queue: SyncSender<Message>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // When there is no room for it, the thread does not sleep, and sees that nobody listens.
        let _stopping = self.queue.try_send(Message::Stop);
    }
}

impl Watch {
    /// Watches the areas below `root`. What is there already is not told: whoever begins looks through everything once.
    ///
    /// A reason instead when the system does not let it; events come with a reason in their midst when it lets it for some folders only.
    pub(crate) fn begin(root: &Path) -> Result<Self, String> {
        Self::begin_with(root, Limits::default())
    }

    fn begin_with(root: &Path, limits: Limits) -> Result<Self, String> {
        let (events, receiver) = mpsc::channel(WAITING);
        let (queue, messages) = sync_channel(QUEUED);
        let lost = Arc::default();
        let root = std::path::absolute(root).map_err(explain)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut watcher = Watcher {
            opened: rustix::fs::openat(CWD, &root, flags, Mode::empty()).map_err(explain)?,
            root,
            inotify: Ear::open(0, &queue, &lost)?,
            queue: queue.clone(),
            lost,
            turn: 0,
            events,
            blind: None,
            deleted: 0,
            watched: 0,
            limits,
        };
        watcher.watch_areas();
        std::thread::Builder::new()
            .name("files-watch".into())
            // It ends when nobody listens, and then there is nobody to be told.
            .spawn(move || drop(watcher.run(&messages)))
            .map_err(explain)?;
        Ok(Self {
            events: receiver,
            queue,
        })
    }
}

fn explain(error: impl Into<io::Error>) -> String {
    let error = error.into();
    match Errno::from_io_error(&error) {
        Some(Errno::MFILE) => "the system allows no more watchers: raise fs.inotify.max_user_instances; until then changes are found by scans".into(),
        _ => format!("{error}; changes are found by scans"),
    }
}

fn explain_watch(error: notify::Error) -> String {
    match error.kind {
        notify::ErrorKind::MaxFilesWatch => {
            "the system allows no more watches: raise fs.inotify.max_user_watches; until then changes are found by scans".into()
        }
        notify::ErrorKind::Io(error) => explain(error),
        _ => format!("{error}; changes are found by scans"),
    }
}

enum Message {
    /// By the watcher of this turn.
    Told(u64, notify::Result<notify::Event>),
    Stop,
}

/// Takes what `notify` tells, and never waits: who would make room may be waiting for `notify` to watch a folder.
struct Ear {
    turn: u64,
    queue: SyncSender<Message>,
    lost: Arc<AtomicBool>,
}

impl Ear {
    fn open(turn: u64, queue: &SyncSender<Message>, lost: &Arc<AtomicBool>) -> Result<INotifyWatcher, String> {
        let ear = Self {
            turn,
            queue: queue.clone(),
            lost: Arc::clone(lost),
        };
        INotifyWatcher::new(ear, Config::default()).map_err(explain_watch)
    }
}

impl EventHandler for Ear {
    fn handle_event(&mut self, told: notify::Result<notify::Event>) {
        if told.as_ref().is_ok_and(|event| changes_nothing(event.kind)) {
            return;
        }
        if let Err(TrySendError::Full(message)) = self.queue.try_send(Message::Told(self.turn, told)) {
            self.lost.store(true, Ordering::Release);
            // If the queue was emptied meanwhile, nobody is awake who would see that; if not, whoever takes the next event sees it.
            let _woken = self.queue.try_send(message);
        }
    }
}

fn changes_nothing(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access != AccessKind::Close(AccessMode::Write),
        // Both halves of it are told by themselves, too.
        EventKind::Modify(ModifyKind::Name(mode)) => mode == RenameMode::Both,
        _ => false,
    }
}

/// Whoever listened is gone.
struct Gone;

struct Watcher {
    root: PathBuf,
    opened: OwnedFd,
    inotify: INotifyWatcher,
    queue: SyncSender<Message>,
    /// Something did not fit into the queue.
    lost: Arc<AtomicBool>,
    /// Of which watcher events are awaited: what an earlier one told is of no interest.
    turn: u64,
    events: mpsc::Sender<Event>,
    blind: Option<String>,
    /// Folders that were deleted in this turn.
    deleted: usize,
    /// Watches that were asked for in this turn.
    watched: usize,
    limits: Limits,
}

impl Watcher {
    fn run(mut self, messages: &Receiver<Message>) -> Result<(), Gone> {
        if let Some(reason) = self.blind.clone() {
            self.tell(Event::Blind(reason))?;
        }
        while !self.events.is_closed() {
            let message = if self.blind.is_none() {
                messages.recv().map_err(|_| Gone)?
            } else {
                match messages.recv_timeout(RETRY) {
                    Ok(message) => message,
                    Err(RecvTimeoutError::Timeout) => {
                        self.try_again()?;
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return Err(Gone),
                }
            };
            let Message::Told(turn, told) = message else {
                return Ok(());
            };
            let blind = self.blind.is_some();
            if self.lost.swap(false, Ordering::AcqRel) || self.deleted > self.limits.deleted {
                self.begin_anew()?;
            } else if turn == self.turn {
                match told {
                    Ok(event) if event.need_rescan() => self.begin_anew()?,
                    Ok(event) => self.take(&event)?,
                    Err(error) => self.blind = Some(explain_watch(error)),
                }
            }
            if let Some(reason) = self.blind.clone().filter(|_| !blind) {
                self.tell(Event::Blind(reason))?;
            }
        }
        Ok(())
    }

    fn tell(&self, event: Event) -> Result<(), Gone> {
        // Whoever listens may be busy; the queue keeps events meanwhile.
        self.events.blocking_send(event).map_err(|_| Gone)
    }

    /// After a limit was reached.
    fn try_again(&mut self) -> Result<(), Gone> {
        self.blind = None;
        self.watch_areas();
        match self.blind {
            Some(_) => Ok(()),
            None => self.tell(Event::Sighted),
        }
    }

    /// Folders may have come of which nothing was told, and folders may be remembered that are gone.
    fn begin_anew(&mut self) -> Result<(), Gone> {
        self.turn += 1;
        self.deleted = 0;
        match Ear::open(self.turn, &self.queue, &self.lost) {
            Ok(inotify) => {
                self.inotify = inotify;
                self.watch_areas();
            }
            Err(reason) => self.blind = Some(reason),
        }
        self.tell(Event::Lost)
    }

    fn take(&mut self, event: &notify::Event) -> Result<(), Gone> {
        let path = event.paths.first().and_then(|path| path.strip_prefix(&self.root).ok());
        // The manager's own names are none.
        let path = path.and_then(|path| FilePath::new(path.as_os_str().as_bytes()).ok());
        let Some(path) = path.filter(is_editable) else {
            return Ok(());
        };
        let seen = match event.kind {
            EventKind::Create(CreateKind::Folder) => {
                self.enter(&path, Some(Seen::Made))?;
                Seen::Whole
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                self.enter(&path, Some(Seen::Whole))?;
                Seen::Whole
            }
            EventKind::Remove(kind) => {
                self.deleted += usize::from(kind == RemoveKind::Folder);
                Seen::Whole
            }
            EventKind::Create(_) => Seen::Made,
            EventKind::Modify(ModifyKind::Metadata(_)) => Seen::Retitled,
            EventKind::Modify(ModifyKind::Data(_)) => Seen::Written,
            _ => Seen::Whole,
        };
        self.tell(Event::Seen(path, seen))
    }

    /// Watches the areas with all that is in them, and nothing else. Says nothing of what it finds.
    fn watch_areas(&mut self) {
        self.watched = 0;
        match self.add(None) {
            Ok(Some(_)) => {}
            Ok(None) => self.blind = Some("the tree's root is gone; changes are found by scans".into()),
            Err(reason) => self.blind = Some(reason),
        }
        for area in EDITABLE {
            let Ok(path) = FilePath::new(area) else { continue };
            // It is told to nobody.
            let _told = self.enter(&path, None);
        }
    }

    /// Watches a folder with all that is in it, and tells of what it finds, as `seen`.
    fn enter(&mut self, top: &FilePath, seen: Option<Seen>) -> Result<(), Gone> {
        let mut open = vec![top.clone()];
        while let Some(folder) = open.pop() {
            let opened = match self.add(Some(&folder)) {
                Ok(Some(opened)) => opened,
                // It is gone, and that is told elsewhere.
                Ok(None) => continue,
                Err(reason) => {
                    // What is in it is found by the scans.
                    self.blind = Some(reason);
                    continue;
                }
            };
            let children = match children(opened.as_fd()) {
                Ok(children) => children,
                Err(error) => {
                    self.blind = Some(format!("{error}; changes are found by scans"));
                    continue;
                }
            };
            for (name, is_folder) in children {
                let Ok(path) = folder.join(&name) else { continue };
                let is_folder = match is_folder {
                    Some(is_folder) => is_folder,
                    None => match stamp_at(opened.as_fd(), &name) {
                        Ok(Some(stamp)) => stamp.kind == Kind::Directory,
                        _ => continue,
                    },
                };
                if let Some(seen) = seen {
                    let seen = if is_folder { Seen::Whole } else { seen };
                    self.tell(Event::Seen(path.clone(), seen))?;
                }
                if is_folder {
                    open.push(path);
                }
            }
        }
        Ok(())
    }

    /// Watches one folder; `None` when it is none. Answers with the folder, opened.
    fn add(&mut self, folder: Option<&FilePath>) -> Result<Option<OwnedFd>, String> {
        let bytes = folder.map_or(b".".as_slice(), |folder| folder.as_bytes());
        let opened = match open_beneath(self.opened.as_fd(), bytes, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(opened) => opened,
            Err(error) if is_nothing(&error) => return Ok(None),
            Err(error) => return Err(explain(error)),
        };
        if self.watched >= self.limits.watches {
            return Err(explain_watch(notify::Error::new(notify::ErrorKind::MaxFilesWatch)));
        }
        self.watched += 1;
        // What takes the place of the folder meanwhile, a link even, is told by the folder above, which is watched already: it is entered once more.
        let place = folder.map_or_else(
            || self.root.clone(),
            |folder| self.root.join(OsStr::from_bytes(folder.as_bytes())),
        );
        match self.inotify.watch(&place, RecursiveMode::NonRecursive) {
            Ok(()) => Ok(Some(opened)),
            Err(notify::Error {
                kind: notify::ErrorKind::PathNotFound,
                ..
            }) => Ok(None),
            Err(notify::Error {
                kind: notify::ErrorKind::Io(error),
                ..
            }) if is_gone(&error) => Ok(None),
            Err(error) => Err(explain_watch(error)),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests;
