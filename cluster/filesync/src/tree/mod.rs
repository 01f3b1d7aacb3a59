//! The resource tree on this node's disk.

mod apply;
mod disk;
mod look;
mod open;
mod root;
mod unsynced;

pub(crate) use apply::{Done, Hands};
pub(crate) use disk::{Disk, Kind, Stamp, children, is_nothing, open_beneath, stamp_at};
pub(crate) use look::{Scan, has_content, scan};
pub(crate) use open::{Beside, Opened, make_areas, open};
pub(crate) use root::Root;

/// From so many files on, one sync of the file system is cheaper than one for each.
pub(crate) const SYNC_EACH_MAX: usize = 16;
/// Where persons may put files, and every node takes them up. What is put elsewhere is undone.
pub(crate) const EDITABLE: [&[u8]; 2] = [b"tenant-resources", b"global-resources"];

/// Whether a person may change what is at the path.
pub(crate) fn is_editable(path: &conclave_catalog::files::FilePath) -> bool {
    EDITABLE.contains(&path.area())
}
