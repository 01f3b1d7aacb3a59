//! Events of the disk, from where persons may put files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use conclave_catalog::files::FilePath;
use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::os::unix::ffi::OsStrExt;
use tokio::sync::mpsc;

use crate::core::settle::Seen;
use crate::tree::EDITABLE;

/// Events that wait to be looked at; more lead to a scan.
const WAITING: usize = 8192;

/// What the disk says.
pub(crate) enum Event {
    Seen(FilePath, Seen),
    /// Events were lost: everything has to be looked at.
    Lost,
    /// Not every folder can be watched.
    Blind(String),
}

/// Watches as long as it lives.
pub(crate) struct Watch {
    _watcher: RecommendedWatcher,
    pub(crate) events: mpsc::Receiver<Event>,
    lost: Arc<AtomicBool>,
}

struct Sink {
    root: PathBuf,
    events: mpsc::Sender<Event>,
    lost: Arc<AtomicBool>,
}

impl Watch {
    /// Watches the areas below `root`. A reason instead, when the system does not let it.
    pub(crate) fn begin(root: &Path) -> Result<(Self, Option<String>), String> {
        let (events, receiver) = mpsc::channel(WAITING);
        let lost = Arc::new(AtomicBool::new(false));
        let sink = Sink {
            root: root.to_owned(),
            events,
            lost: Arc::clone(&lost),
        };
        let watcher = notify::recommended_watcher(move |event| sink.take(event));
        let mut watcher = watcher.map_err(|error| error.to_string())?;
        let mut blind = None;
        for area in EDITABLE {
            let folder = root.join(std::ffi::OsStr::from_bytes(area));
            if let Err(error) = watcher.watch(&folder, RecursiveMode::Recursive) {
                blind = Some(explain(&error));
            }
        }
        let watch = Self {
            _watcher: watcher,
            events: receiver,
            lost,
        };
        Ok((watch, blind))
    }

    /// Whether events were lost since the last question.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.swap(false, Ordering::Relaxed)
    }
}

fn explain(error: &notify::Error) -> String {
    match error.kind {
        ErrorKind::MaxFilesWatch => {
            "the system allows no more watches: raise fs.inotify.max_user_watches; until then changes are found by scans".into()
        }
        _ => format!("{error}; changes are found by scans"),
    }
}

impl Sink {
    fn take(&self, event: notify::Result<notify::Event>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                self.send(Event::Blind(explain(&error)));
                return;
            }
        };
        if event.need_rescan() {
            self.send(Event::Lost);
            return;
        }
        let seen = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_) => Seen::Whole,
            EventKind::Access(_) => return,
            EventKind::Create(CreateKind::Folder) | EventKind::Modify(ModifyKind::Name(_)) => Seen::Whole,
            EventKind::Create(_) => Seen::Made,
            EventKind::Modify(ModifyKind::Metadata(_)) => Seen::Retitled,
            _ => Seen::Written,
        };
        for path in event.paths {
            let below = path.strip_prefix(&self.root).ok();
            // The manager's own names are none.
            if let Some(path) = below.and_then(|below| FilePath::new(below.as_os_str().as_bytes()).ok()) {
                self.send(Event::Seen(path, seen));
            }
        }
    }

    fn send(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.lost.store(true, Ordering::Relaxed);
        }
    }
}
