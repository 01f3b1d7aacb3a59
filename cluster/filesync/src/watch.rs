//! Events of the disk, from where persons may put files.
//!
//! A folder is watched before it is listed, and what the listing finds is told like any event: whatever is made in it, before it is watched
//! or after, is seen. That is why this is inotify itself: `notify` tells of a new folder first and watches it later.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use conclave_catalog::files::FilePath;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::core::settle::Seen;
use crate::tree::{Kind, children, is_editable, is_nothing, open_beneath, stamp_at};

/// Events that wait to be looked at. The system keeps more, and says so when it could not.
const WAITING: usize = 8192;
/// Folders that could not be watched are tried again as often as this.
const RETRY: Duration = Duration::from_secs(10);
/// Read from the system at once.
const BUFFER_BYTES: usize = 64 << 10;

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

/// Watches as long as it lives.
pub(crate) struct Watch {
    pub(crate) events: mpsc::Receiver<Event>,
    stop: OwnedFd,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It fails only when the thread has so much to stop for that it is about to.
        let _stopping = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

impl Watch {
    /// Watches the areas below `root`. What is there already is not told: whoever begins looks through everything once.
    ///
    /// A reason instead when the system does not let it; events come with a reason in their midst when it lets it for some folders only.
    pub(crate) fn begin(root: &Path) -> Result<Self, String> {
        Self::begin_with(root, usize::MAX)
    }

    /// As if the system allowed so many watches.
    fn begin_with(root: &Path, watches_max: usize) -> Result<Self, String> {
        let (events, receiver) = mpsc::channel(WAITING);
        let opened = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|error| match error {
            Errno::MFILE => {
                "the system allows no more watchers: raise fs.inotify.max_user_instances; until then changes are \
                             found by scans"
                    .to_owned()
            }
            other => explain(other),
        })?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(explain)?;
        let mut watcher = Watcher {
            inotify: opened,
            root: rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(explain)?,
            folders: HashMap::new(),
            places: BTreeMap::new(),
            events,
            blind: None,
            watches_max,
        };
        watcher.watch_all();
        let stopped = stop.try_clone().map_err(|error| error.to_string())?;
        std::thread::Builder::new()
            .name("files-watch".into())
            .spawn(move || watcher.run(&stopped))
            .map_err(|error| format!("{error}; changes are found by scans"))?;
        Ok(Self { events: receiver, stop })
    }
}

fn explain(error: Errno) -> String {
    match error {
        Errno::NOSPC => {
            "the system allows no more watches: raise fs.inotify.max_user_watches; until then changes are found by scans".into()
        }
        other => format!("{other}; changes are found by scans"),
    }
}

/// Whoever listened is gone.
struct Gone;

struct Watcher {
    inotify: OwnedFd,
    root: OwnedFd,
    /// `None`: the root, for the sake of the areas themselves.
    folders: HashMap<i32, Option<FilePath>>,
    places: BTreeMap<FilePath, i32>,
    events: mpsc::Sender<Event>,
    blind: Option<String>,
    watches_max: usize,
}

impl Watcher {
    fn run(mut self, stop: &OwnedFd) {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_BYTES];
        if let Some(reason) = self.blind.clone()
            && self.tell(Event::Blind(reason)).is_err()
        {
            return;
        }
        loop {
            let retry = Timespec {
                tv_sec: RETRY.as_secs().cast_signed(),
                tv_nsec: 0,
            };
            let timeout = self.blind.is_some().then_some(retry);
            let mut ready = [
                PollFd::new(&self.inotify, PollFlags::IN),
                PollFd::new(stop, PollFlags::IN),
            ];
            let count = match poll(&mut ready, timeout.as_ref()) {
                Err(Errno::INTR) => continue,
                Err(error) => {
                    // The end of the events tells, too.
                    let _gone = self.tell(Event::Blind(explain(error)));
                    return;
                }
                Ok(count) => count,
            };
            if !ready[1].revents().is_empty() {
                return;
            }
            let told = if count == 0 {
                self.try_again()
            } else {
                self.read(&mut buffer)
            };
            if told.is_err() {
                return;
            }
        }
    }

    fn tell(&self, event: Event) -> Result<(), Gone> {
        // Whoever listens may be busy; the system keeps events meanwhile.
        self.events.blocking_send(event).map_err(|_| Gone)
    }

    /// After a limit was reached.
    fn try_again(&mut self) -> Result<(), Gone> {
        self.blind = None;
        self.watch_all();
        match self.blind {
            Some(_) => Ok(()),
            None => self.tell(Event::Sighted),
        }
    }

    fn read(&mut self, buffer: &mut [MaybeUninit<u8>]) -> Result<(), Gone> {
        let blind = self.blind.clone();
        let Ok(source) = self.inotify.try_clone() else {
            // No descriptors are left: the events wait, and a moment later there may be some.
            std::thread::sleep(Duration::from_millis(100));
            return Ok(());
        };
        let mut reader = inotify::Reader::new(source, buffer);
        loop {
            let (at, flags, name) = match reader.next() {
                Ok(event) => (event.wd(), event.events(), event.file_name().map(CStr::to_owned)),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(error) => {
                    self.blind = Some(explain(error));
                    break;
                }
            };
            self.take(at, flags, name.as_deref())?;
            if reader.is_buffer_empty() {
                break;
            }
        }
        match &self.blind {
            Some(reason) if blind.is_none() => self.tell(Event::Blind(reason.clone())),
            _ => Ok(()),
        }
    }

    fn take(&mut self, at: i32, flags: ReadFlags, name: Option<&CStr>) -> Result<(), Gone> {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            // Folders may have come of which nothing was told.
            self.watch_all();
            return self.tell(Event::Lost);
        }
        if flags.contains(ReadFlags::IGNORED) {
            self.forget(at);
            return Ok(());
        }
        // Of what is not watched any more, its new place has told everything.
        let (Some(folder), Some(name)) = (self.folders.get(&at), name) else {
            return Ok(());
        };
        let path = match folder {
            Some(folder) => folder.join(name.to_bytes()),
            None => FilePath::new(name.to_bytes()),
        };
        // The manager's own names are none.
        let Ok(path) = path else { return Ok(()) };
        if !is_editable(&path) {
            return Ok(());
        }
        let has = |flag| flags.contains(flag);
        if has(ReadFlags::ISDIR) {
            if has(ReadFlags::MOVED_FROM) || has(ReadFlags::DELETE) {
                self.leave(&path);
            } else if has(ReadFlags::MOVED_TO) {
                self.enter(&path, Some(Seen::Whole))?;
            } else if has(ReadFlags::CREATE) {
                self.enter(&path, Some(Seen::Made))?;
            } else if has(ReadFlags::ATTRIB) {
                return self.tell(Event::Seen(path, Seen::Retitled));
            }
            return self.tell(Event::Seen(path, Seen::Whole));
        }
        let whole = ReadFlags::CLOSE_WRITE | ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
        let seen = if flags.intersects(whole) {
            Seen::Whole
        } else if has(ReadFlags::CREATE) {
            Seen::Made
        } else if has(ReadFlags::ATTRIB) {
            Seen::Retitled
        } else {
            Seen::Written
        };
        self.tell(Event::Seen(path, seen))
    }

    /// Watches the areas with all that is in them, and nothing else. Says nothing of what it finds.
    fn watch_all(&mut self) {
        let before: HashSet<i32> = self.folders.keys().copied().collect();
        self.folders.clear();
        self.places.clear();
        match self.add(None) {
            Ok(Some(_)) => {}
            Ok(None) => self.blind = Some("the tree's root is gone; changes are found by scans".into()),
            Err(reason) => self.blind = Some(reason),
        }
        for area in crate::tree::EDITABLE {
            let Ok(path) = FilePath::new(area) else { continue };
            // It is told to nobody.
            let _told = self.enter(&path, None);
        }
        for at in before {
            if !self.folders.contains_key(&at) {
                // What was deleted has none any more.
                let _gone = inotify::remove_watch(&self.inotify, at);
            }
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
        let opened = match open_beneath(self.root.as_fd(), bytes, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(opened) => opened,
            Err(error) if is_nothing(&error) => return Ok(None),
            Err(error) => return Err(format!("{error}; changes are found by scans")),
        };
        if self.folders.len() >= self.watches_max {
            return Err(explain(Errno::NOSPC));
        }
        let mut flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR
            | WatchFlags::EXCL_UNLINK;
        if folder.is_some() {
            flags |= WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE;
        }
        // By what is opened: no link on the way is followed, and nothing can take its place meanwhile.
        let itself = format!("/proc/self/fd/{}", opened.as_raw_fd());
        let at = inotify::add_watch(&self.inotify, itself, flags).map_err(explain)?;
        self.forget(at);
        if let Some(folder) = folder
            && let Some(former) = self.places.insert(folder.clone(), at)
        {
            self.folders.remove(&former);
        }
        self.folders.insert(at, folder.cloned());
        Ok(Some(opened))
    }

    fn forget(&mut self, at: i32) {
        if let Some(Some(place)) = self.folders.remove(&at)
            && self.places.get(&place) == Some(&at)
        {
            self.places.remove(&place);
        }
    }

    /// A folder is not at its place any more: where it has gone, if anywhere in the areas, it is watched anew.
    fn leave(&mut self, top: &FilePath) {
        let (from, to) = top.below();
        let below = self.places.range(from..to).map(|(_, at)| *at);
        let all: Vec<i32> = self.places.get(top).copied().into_iter().chain(below).collect();
        for at in all {
            self.forget(at);
            // What was deleted has none any more.
            let _gone = inotify::remove_watch(&self.inotify, at);
        }
    }
}

#[cfg(test)]
mod tests;
