//! The resource files of a cluster, as persons and clients see them: the trees on the disks, and `conclave files`.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use serde_json::Value;

use crate::TestCluster;

/// What a tree shows: each path with what it is.
pub type Tree = BTreeMap<Vec<u8>, Shown>;

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// With its mode.
    Folder(u32),
    /// With its target.
    Link(Vec<u8>),
    /// With its mode and its content.
    File(u32, Vec<u8>),
}

/// A node's tree.
#[must_use]
pub fn resources(test: &TestCluster, node: u8) -> PathBuf {
    test.cluster.node(node).data_dir.join("resources")
}

/// The part of it where persons may put what all tenants see.
#[must_use]
pub fn shared(test: &TestCluster, node: u8) -> PathBuf {
    resources(test, node).join("global-resources")
}

/// What persons' and clients' parts of the tree show. An answer of `None`: it changed while it was read.
#[must_use]
pub fn tree(root: &Path) -> Option<Tree> {
    let mut found = Tree::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for child in std::fs::read_dir(&folder).ok()? {
            let path = child.ok()?.path();
            // The node's own: it knows by it that this is its tree, and makes files in it before they are shown.
            if path
                .file_name()
                .is_some_and(|name| name.as_bytes().starts_with(b".conclave-"))
            {
                continue;
            }
            let about = std::fs::symlink_metadata(&path).ok()?;
            let mode = about.permissions().mode() & 0o777;
            let shown = if about.is_dir() {
                open.push(path.clone());
                Shown::Folder(mode)
            } else if about.is_symlink() {
                Shown::Link(std::fs::read_link(&path).ok()?.as_os_str().as_bytes().to_vec())
            } else {
                Shown::File(mode, std::fs::read(&path).ok()?)
            };
            let name = path.strip_prefix(root).ok()?.as_os_str().as_bytes().to_vec();
            found.insert(name, shown);
        }
    }
    Some(found)
}

/// Whether a path is a file with this content.
#[must_use]
pub fn has(tree: &Tree, path: &str, content: &[u8]) -> bool {
    matches!(tree.get(path.as_bytes()), Some(Shown::File(_, found)) if found == content)
}

/// `conclave files …` on a node, running: its input is to be written.
///
/// # Panics
/// When there is no command, or the program cannot be started.
#[must_use]
pub fn begin_files(test: &TestCluster, node: u8, arguments: &[&str]) -> Child {
    let (verb, rest) = arguments.split_first().expect("a command");
    let mut command = test.cluster.command(node);
    command
        .args(["files", verb, "--config"])
        .arg(test.cluster.layout().node(node).config_file())
        .args(rest)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

/// `conclave files …` on a node, with this input.
///
/// # Panics
/// When the program cannot be started.
#[must_use]
pub fn files(test: &TestCluster, node: u8, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = begin_files(test, node, arguments);
    // A command that is refused does not read to the end.
    let _refused = child.stdin.take().expect("an input").write_all(input);
    child.wait_with_output().expect("the program ends")
}

/// The same, as JSON.
///
/// # Panics
/// With what the program complains of, when that is no JSON.
#[must_use]
pub fn files_json(test: &TestCluster, node: u8, arguments: &[&str]) -> Value {
    let mut arguments = arguments.to_vec();
    arguments.push("--json");
    let output = files(test, node, &arguments, b"");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// Bytes that do not repeat.
#[must_use]
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
