//! Changes of the manifest, and why they are refused.

use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::path::FilePath;

/// Names a set of steps that is brought in by several log entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SetId(pub uuid::Uuid);

/// What must be at a path for a step to hold (compare and set).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected {
    /// Whatever.
    #[default]
    Anything,
    /// Nothing.
    Nothing,
    /// What was put there in this version, unchanged since.
    Version(u64),
    /// Nothing below it, whatever it is itself: a folder that is removed must not take along what another node has just put there.
    Childless,
}

/// One step of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Replaces everything at and below `root` by `entries` (all at or below `root`, the root itself among them).
    ReplaceTree {
        /// The directory (or file) that is replaced.
        root: FilePath,
        /// What it holds from now on.
        entries: Vec<(FilePath, Entry)>,
        /// What must be at `root` before.
        #[serde(default)]
        expected: Expected,
    },
    /// Adds to a tree that an earlier step of the same change replaced: what does not fit into one log entry.
    ExtendTree {
        /// As in the earlier step.
        root: FilePath,
        /// More of what it holds.
        entries: Vec<(FilePath, Entry)>,
    },
    /// Puts an entry to a path; what was there before goes. Missing parents are made.
    Put {
        /// Where.
        path: FilePath,
        /// What it is from now on.
        entry: Entry,
        /// What must be there before.
        #[serde(default)]
        expected: Expected,
    },
    /// Removes what is at and below a path. Nothing there is no fault.
    Remove {
        /// Where.
        root: FilePath,
        /// What must be there before.
        #[serde(default)]
        expected: Expected,
    },
    /// Gives a file or a whole tree another name. What was there before goes.
    Rename {
        /// From where.
        from: FilePath,
        /// To where; not below `from`.
        to: FilePath,
        /// What must be at `from`.
        #[serde(default)]
        expected: Expected,
    },
}

/// A change of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilesCommand {
    /// Carries steps out: all of them, or none.
    Change {
        /// Steps that were brought in before, and come first.
        #[serde(default)]
        set: Option<SetId>,
        /// In this order.
        steps: Vec<Step>,
    },
    /// Brings steps in for a later [`FilesCommand::Change`], so that a change of any size is made of log entries of a bounded size.
    /// A set that is not used is forgotten after [`STAGED_ENTRIES_MAX`] log entries.
    Stage {
        /// Of the whole set.
        set: SetId,
        /// How many parts were brought in before: a repeated or a lost part is noticed.
        part: u32,
        /// More of its steps.
        steps: Vec<Step>,
    },
}

/// After so many log entries a set that was brought in and not used is forgotten.
pub(super) const STAGED_ENTRIES_MAX: u64 = 20_000;
/// Sets that may be underway at once.
pub(super) const STAGED_SETS_MAX: usize = 64;

/// Why a change of the manifest was refused. Nothing is changed then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum FilesRefusal {
    /// Something else is there than was expected.
    #[error("{path} is not as expected: {found}; look at it and try again")]
    Unexpected {
        /// Where.
        path: FilePath,
        /// What is there instead.
        found: Found,
    },
    /// There is nothing to rename.
    #[error("{0} is not there")]
    Missing(FilePath),
    /// A folder of the path is none.
    #[error("{path} cannot be in {parent}, which is no directory")]
    NoDirectory {
        /// What was to be put.
        path: FilePath,
        /// What is in its way.
        parent: FilePath,
    },
    /// The entries of a tree are not all in it.
    #[error("{path} is not within {root}")]
    Outside {
        /// Which.
        path: FilePath,
        /// The tree.
        root: FilePath,
    },
    /// The link leaves the tree.
    #[error("the symbolic link {0} points out of the resource tree; links must be relative and stay inside")]
    LinkEscapes(FilePath),
    /// A folder cannot be moved into itself.
    #[error("{from} cannot be renamed to {to}: that is inside of it, or its names would become too long")]
    IntoItself {
        /// From where.
        from: FilePath,
        /// To where.
        to: FilePath,
    },
    /// Special permission bits.
    #[error("{0} has other mode bits than the nine permissions")]
    Mode(FilePath),
    /// The set was never brought in, was used, or took too long.
    #[error("the set of files is not known: it took too long, or parts of it were lost; try again")]
    UnknownSet,
    /// Too many at once.
    #[error("{STAGED_SETS_MAX} large sets of files are underway at once; try again later")]
    TooManySets,
}

/// What was found where something else was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Found {
    /// Nothing.
    #[error("there is nothing")]
    Nothing,
    /// What was put there in this version.
    #[error("it is of version {0}")]
    Version(u64),
    /// Something in it.
    #[error("there is something in it")]
    Children,
}
