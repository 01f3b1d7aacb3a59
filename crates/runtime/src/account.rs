//! The unprivileged account that databases and brokers run under when the manager runs as root.
//!
//! PostgreSQL refuses to run as root, and nothing that listens should have more rights than it needs.

use std::path::Path;

use nix::unistd::{Gid, Uid, User};

/// The account that child servers run under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
    switch: bool,
}

/// Why an account can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The account does not exist.
    #[error("account {0:?} does not exist: create it, or name another one in the configuration")]
    Unknown(String),
    /// The account database or the file system refused.
    #[error("account {name:?}: {what}: {source}")]
    System {
        /// The account's name.
        name: String,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Account {
    /// The account for child servers: `name` when this process is root, else whoever runs this process.
    ///
    /// # Errors
    /// When this process is root and `name` does not exist.
    pub fn for_children(name: &str) -> Result<Self, AccountError> {
        let system = |what, source: nix::Error| AccountError::System {
            name: name.into(),
            what,
            source: source.into(),
        };
        if Uid::effective().is_root() {
            let user = User::from_name(name)
                .map_err(|error| system("look up", error))?
                .ok_or_else(|| AccountError::Unknown(name.into()))?;
            return Ok(Self {
                name: user.name,
                uid: user.uid,
                gid: user.gid,
                switch: true,
            });
        }
        let own = User::from_uid(Uid::effective()).map_err(|error| system("look up own account", error))?;
        let name = own.map_or_else(|| Uid::effective().to_string(), |user| user.name);
        Ok(Self {
            name,
            uid: Uid::effective(),
            gid: Gid::effective(),
            switch: false,
        })
    }

    /// The account's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes `command` run under this account.
    pub fn apply(&self, command: &mut tokio::process::Command) {
        if self.switch {
            command.uid(self.uid.as_raw()).gid(self.gid.as_raw());
        }
    }

    /// Gives `path` (one entry, not its content) to this account.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn own(&self, path: &Path) -> Result<(), AccountError> {
        if !self.switch {
            return Ok(());
        }
        nix::unistd::chown(path, Some(self.uid), Some(self.gid)).map_err(|error| AccountError::System {
            name: self.name.clone(),
            what: "give a path to the account",
            source: error.into(),
        })
    }
}
