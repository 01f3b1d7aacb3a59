//! Programs that others have written in Python, in virtual environments that `deploy/test` makes.

use std::path::PathBuf;

/// A program of one of the environments.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn python_program(environment: &str, program: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let path = cache.join("conclave").join(environment).join("bin").join(program);
    assert!(path.exists(), "{} is not there: `deploy/test` makes it", path.display());
    path
}
