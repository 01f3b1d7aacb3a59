//! The log: opening, appending, syncing, rotating, releasing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::frame::{self, FIRST_OF_EPOCH, FRAME_BYTES_MAX, Frame, SEGMENT_HEADER_BYTES};
use crate::recovery::{Recovery, Segment};
use crate::{Disk, DiskFile, WalError};

const SUFFIX: &str = ".wal";
/// A buffer that one large batch has grown is given back.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// How the log is kept.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// From this size on [`Wal::is_full`] asks for the next segment. Space is given back in whole segments.
    pub segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
        }
    }
}

/// An open log. It blocks: it belongs on a thread of its own.
#[derive(Debug)]
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    /// The oldest segment that is kept.
    first: u64,
    current: u64,
    file: Box<dyn DiskFile>,
    /// Where the next write goes.
    end: u64,
    buffer: Vec<u8>,
    epoch: u64,
    /// Whether a frame has been appended since the last sync.
    in_epoch: bool,
    poisoned: bool,
}

impl Wal {
    /// Opens or makes the log in `dir` and gives every frame that it holds to `visit`, oldest first. What a crash tore off
    /// is cut away, and the rest is durable before this returns.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] when something durable is damaged or missing.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        visit: &mut dyn FnMut(Frame) -> io::Result<()>,
    ) -> Result<(Self, Recovery), WalError> {
        disk.create_dir(dir).map_err(WalError::io("make the folder", dir))?;
        let mut numbers = segments(&*disk, dir)?;
        let mut recovery = Recovery::default();
        let mut epoch = 0;
        let mut tail = None;
        for (position, number) in numbers.clone().into_iter().enumerate() {
            let path = segment_path(dir, number);
            let file = disk.open(&path).map_err(WalError::io("open", &path))?;
            let bytes = read_all(&*file).map_err(WalError::io("read", &path))?;
            let segment = Segment {
                number,
                path: &path,
                bytes: &bytes,
                is_last: position + 1 == numbers.len(),
            };
            let Some(before) = segment.begins()? else {
                // It was being made: nothing can be in it, and the segment before is complete.
                drop(file);
                disk.remove(&path).map_err(WalError::io("remove", &path))?;
                recovery.torn_bytes += bytes.len() as u64;
                numbers.pop();
                break;
            };
            if position > 0 && before != epoch {
                let reason = format!("the segment follows epoch {before}, and the one before ends with {epoch}");
                return Err(segment.corrupt(0, reason));
            }
            let scanned = segment.scan(before, visit)?;
            epoch = scanned.epoch;
            recovery.frames += scanned.frames;
            recovery.torn_bytes += bytes.len() as u64 - scanned.valid_end;
            tail = Some((number, file, scanned.valid_end));
        }
        let (current, file, end) = match tail {
            Some(tail) => tail,
            None => {
                let number = 1;
                let file = new_segment(&*disk, dir, number, epoch)?;
                numbers = vec![number];
                (number, file, SEGMENT_HEADER_BYTES as u64)
            }
        };
        let path = segment_path(dir, current);
        file.set_len(end).map_err(WalError::io("cut the torn tail of", &path))?;
        // What came back may have been in the kernel's memory alone: someone will now rely on it.
        file.sync().map_err(WalError::io("sync", &path))?;
        disk.sync_dir(dir).map_err(WalError::io("sync the folder", dir))?;
        let wal = Self {
            disk,
            dir: dir.to_owned(),
            options,
            first: numbers.first().copied().unwrap_or(current),
            current,
            file,
            end,
            buffer: Vec::new(),
            epoch,
            in_epoch: false,
            poisoned: false,
        };
        Ok((wal, recovery))
    }

    /// Puts a frame into the current group. Nothing is written yet.
    ///
    /// # Errors
    /// When the payload is too large, or the log has failed before.
    pub fn append(&mut self, kind: u8, payload: &[u8]) -> Result<(), WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        if payload.len() > FRAME_BYTES_MAX {
            return Err(WalError::TooLarge(payload.len()));
        }
        let flags = if self.in_epoch {
            0
        } else {
            self.in_epoch = true;
            self.epoch += 1;
            FIRST_OF_EPOCH
        };
        frame::encode(&mut self.buffer, self.current, kind, flags, self.epoch, payload);
        Ok(())
    }

    /// Hands the group to the kernel without waiting for the disk: it survives the end of the process, not of the machine.
    ///
    /// # Errors
    /// When the disk says no; the log refuses everything from then on.
    pub fn write(&mut self) -> Result<(), WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        if let Err(source) = self.file.write_at(self.end, &self.buffer) {
            return Err(self.fail("write", source));
        }
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT_BYTES);
        Ok(())
    }

    /// Makes everything that was appended durable: one write, one sync.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.write()?;
        if !self.in_epoch {
            return Ok(());
        }
        if let Err(source) = self.file.sync() {
            return Err(self.fail("sync", source));
        }
        self.in_epoch = false;
        Ok(())
    }

    fn fail(&mut self, what: &'static str, source: io::Error) -> WalError {
        self.poisoned = true;
        WalError::io(what, &segment_path(&self.dir, self.current))(source)
    }

    /// The segment that the next frame goes into.
    pub fn segment(&self) -> u64 {
        self.current
    }

    /// The oldest segment that is kept.
    pub fn first_segment(&self) -> u64 {
        self.first
    }

    /// Bytes in the current segment, appended ones included.
    pub fn segment_len(&self) -> u64 {
        self.end + self.buffer.len() as u64
    }

    /// Whether it is time for [`Self::rotate`].
    pub fn is_full(&self) -> bool {
        self.segment_len() >= self.options.segment_bytes
    }

    /// Completes the current segment and begins the next. Whatever a reader must know when older segments are released has
    /// to be appended next.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn rotate(&mut self) -> Result<(), WalError> {
        self.sync()?;
        match new_segment(&*self.disk, &self.dir, self.current + 1, self.epoch) {
            Ok(file) => {
                self.file = file;
                self.current += 1;
                self.end = SEGMENT_HEADER_BYTES as u64;
                Ok(())
            }
            Err(error) => {
                self.poisoned = true;
                Err(error)
            }
        }
    }

    /// Removes the segments before `segment`, oldest first; never the current one.
    ///
    /// # Errors
    /// When the disk says no. The log goes on: what was not removed is removed with the next release.
    pub fn release_before(&mut self, segment: u64) -> Result<(), WalError> {
        let until = segment.min(self.current);
        if self.first >= until {
            return Ok(());
        }
        // What stands in for the released segments is durable before they go.
        self.sync()?;
        while self.first < until {
            let path = segment_path(&self.dir, self.first);
            self.disk.remove(&path).map_err(WalError::io("remove", &path))?;
            self.first += 1;
        }
        self.disk
            .sync_dir(&self.dir)
            .map_err(WalError::io("sync the folder", &self.dir))
    }
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}{SUFFIX}"))
}

/// The numbers of the segments, which must follow one another.
fn segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, WalError> {
    let names = disk.list(dir).map_err(WalError::io("list", dir))?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| name.strip_suffix(SUFFIX)?.parse().ok())
        .collect();
    numbers.sort_unstable();
    for pair in numbers.windows(2) {
        if pair[1] != pair[0] + 1 {
            return Err(WalError::Corrupt {
                path: segment_path(dir, pair[0] + 1),
                offset: 0,
                reason: format!("the segment is missing, and segment {} is there", pair[1]),
            });
        }
    }
    Ok(numbers)
}

/// The header and the name are durable before any frame is written.
fn new_segment(disk: &dyn Disk, dir: &Path, number: u64, epoch: u64) -> Result<Box<dyn DiskFile>, WalError> {
    let path = segment_path(dir, number);
    let file = disk.create(&path).map_err(WalError::io("create", &path))?;
    file.write_at(0, &frame::encode_segment_header(number, epoch))
        .map_err(WalError::io("write", &path))?;
    file.sync().map_err(WalError::io("sync", &path))?;
    disk.sync_dir(dir).map_err(WalError::io("sync the folder", dir))?;
    Ok(file)
}

fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}
