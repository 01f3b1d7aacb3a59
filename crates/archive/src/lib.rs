//! Archives of strangers: unpacked within one folder, within limits, or not at all.
//!
//! Knows zip, tar, tar.gz and tar.bz2, told apart by their first bytes. Nothing is written outside of the target folder,
//! links that lead out of it are refused, and so is what would fill the disk. Knows nothing of what archives hold.

mod kind;
mod unpack;

pub use kind::ArchiveKind;
pub use unpack::{ArchiveError, Limits, single_folder, unpack};

use std::path::Path;

/// Packs a folder into a gzipped tar whose only top entry is `name`.
///
/// # Errors
/// When a file cannot be read.
pub fn pack_tar_gz(folder: &Path, name: &str) -> std::io::Result<Vec<u8>> {
    let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut builder = tar::Builder::new(encoder);
    builder.follow_symlinks(false);
    builder.append_dir_all(name, folder)?;
    builder.into_inner()?.finish()
}
