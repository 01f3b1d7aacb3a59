//! Clocks of nodes that the test sets, by Debian's libfaketime: managers, and the PostgreSQL servers that they start, read the time of
//! day through it. Time that only passes (timers, timeouts) stays the machine's, as it does when an operator sets a clock.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In a node's folder: how far its clock is from the machine's.
const FILE: &str = "clock";
/// The library looks at the file no more often than that.
const CACHED_SECONDS: u32 = 1;

/// A program that starts managers with clocks that can be set; `None` without the library.
///
/// # Panics
/// When it cannot be written.
#[must_use]
pub fn starter(program: &Path, folder: &Path) -> Option<PathBuf> {
    let Some(library) = library() else {
        eprintln!("clocks stay as they are: there is no libfaketime");
        return None;
    };
    let text = format!(
        "#!/bin/sh\n\
         # A manager is started in its node's folder.\n\
         if [ \"$1\" = manager ]; then\n\
         \x20   export FAKETIME_TIMESTAMP_FILE=\"$PWD/{FILE}\" FAKETIME_CACHE_DURATION={CACHED_SECONDS}\n\
         \x20   export FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1 LD_PRELOAD={library}\n\
         fi\n\
         exec {program} \"$@\"\n",
        library = library.display(),
        program = program.display(),
    );
    let starter = folder.join("conclave-with-clock");
    std::fs::write(&starter, text).expect("the starter can be written");
    std::fs::set_permissions(&starter, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    Some(starter)
}

/// Sets the clock of the node in that folder so many seconds ahead of the machine's, or behind it.
///
/// # Errors
/// When the file cannot be written.
pub fn set(node: &Path, seconds: i64) -> std::io::Result<()> {
    let new = node.join("clock.new");
    std::fs::write(&new, format!("{seconds:+}\n"))?;
    // Whole or absent: every process of the node reads it.
    std::fs::rename(new, node.join(FILE))
}

/// Where Debian puts it, on this kind of machine.
fn library() -> Option<PathBuf> {
    let listed = Command::new("dpkg-query").args(["-L", "libfaketime"]).output().ok()?;
    let files = String::from_utf8_lossy(&listed.stdout).into_owned();
    let found = files.lines().find(|line| line.ends_with("libfaketimeMT.so.1"))?;
    Some(PathBuf::from(found))
}
