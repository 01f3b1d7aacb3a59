//! The resource tree on this node's disk.

mod apply;
mod disk;
mod look;
mod root;

pub(crate) use apply::{Done, Hands};
pub(crate) use disk::{Disk, Kind, Stamp, children, is_nothing, open_beneath, stamp_at};
pub(crate) use look::{Scan, has_content, look, scan};
pub(crate) use root::Root;

/// Where persons may put files, and every node takes them up. What is put elsewhere is undone.
pub(crate) const EDITABLE: [&[u8]; 2] = [b"tenant-resources", b"global-resources"];

/// Whether a person may change what is at the path.
pub(crate) fn is_editable(path: &conclave_catalog::files::FilePath) -> bool {
    EDITABLE.contains(&path.area())
}
