//! Where this node's RabbitMQ lies, and the files that it is given.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use conclave_net::NodeIdentity;
use conclave_runtime::account::Account;

use crate::error::MessagingError;

/// Where Debian's package puts the server; one folder a version in it.
const INSTALLED: &str = "/usr/lib/rabbitmq/lib";
/// Erlang's starter, by package and by hand.
const STARTERS: [&str; 2] = ["/usr/lib/erlang/bin/erl", "/usr/local/lib/erlang/bin/erl"];

/// The installed programs.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// The folder with `plugins` in it, where the server's own code is, too.
    pub(crate) home: PathBuf,
    pub(crate) erl: PathBuf,
    /// Differs when other programs have been installed in their place.
    pub(crate) edition: String,
}

impl Programs {
    /// The configured or the newest installed version.
    pub(crate) fn find(configured: Option<&Path>) -> Result<Self, MessagingError> {
        let home = match configured {
            Some(home) => home.to_owned(),
            None => newest(Path::new(INSTALLED))?,
        };
        if !home.join("plugins").is_dir() {
            return Err(MessagingError::NotInstalled {
                what: "RabbitMQ's folder `plugins`",
                folder: home,
            });
        }
        let erl = STARTERS.iter().map(PathBuf::from).find(|path| path.exists());
        let erl = erl.ok_or_else(|| MessagingError::NotInstalled {
            what: "Erlang's program `erl`",
            folder: PathBuf::from(STARTERS[0]),
        })?;
        let edition = edition(&home, &erl);
        Ok(Self { home, erl, edition })
    }
}

/// By the times of a file of Erlang's package and of a folder of RabbitMQ's: an update of the same version has the same paths.
fn edition(home: &Path, erl: &Path) -> String {
    let entries = std::fs::read_dir(home.join("plugins")).into_iter().flatten().flatten();
    let server = entries.map(|entry| entry.path()).find(|path| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"rabbit-"))
    });
    let server = server.map_or_else(|| home.to_owned(), |folder| folder.join("ebin"));
    let changed = |path: &Path| {
        let facts = std::fs::metadata(path);
        // What cannot be looked at cannot be started either.
        facts.map_or(0, |facts| facts.mtime())
    };
    format!("{} {}", changed(erl), changed(&server))
}

fn newest(root: &Path) -> Result<PathBuf, MessagingError> {
    let versions = std::fs::read_dir(root).into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix("rabbitmq_server-")?;
            let numbers: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
            Some((numbers, entry.path()))
        })
        .max();
    newest
        .map(|(_, path)| path)
        .ok_or_else(|| MessagingError::NotInstalled {
            what: "RabbitMQ",
            folder: root.to_owned(),
        })
}

/// The paths of one node's broker.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// The server's home, owned by its account.
    pub(crate) base: PathBuf,
    /// Which process it is. Outside of the home: the account must not choose whom the manager signals.
    pub(crate) process_file: PathBuf,
}

impl Layout {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self {
            base: data_dir.join("rabbitmq"),
            process_file: data_dir.join("rabbitmq.json"),
        }
    }

    /// Where the server's data are.
    pub(crate) fn database(&self) -> PathBuf {
        self.base.join("mnesia")
    }

    /// The folder of the server's log.
    pub(crate) fn logs(&self) -> PathBuf {
        self.base.join("log")
    }

    /// Stays empty: with it the server spends no time on looking through some sixty plugins that nobody enabled.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.base.join("plugins")
    }

    pub(crate) fn enabled_plugins(&self) -> PathBuf {
        self.base.join("enabled_plugins")
    }

    /// Without the extension, as `erl -config` wants it.
    pub(crate) fn config_stem(&self) -> PathBuf {
        self.base.join("sys")
    }

    pub(crate) fn definitions(&self) -> PathBuf {
        self.base.join("definitions.json")
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.base.join("ca.pem")
    }

    /// Certificate and key in one file: a renewal replaces both at once.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.base.join("certificate.pem")
    }

    /// What the server prints before it has a log.
    pub(crate) fn output(&self) -> PathBuf {
        self.base.join("output.log")
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.logs().join("rabbitmq.log")
    }

    /// Makes the folders, and the files that do not depend on where the server listens.
    pub(crate) fn prepare(&self, identity: &NodeIdentity, account: &Account) -> Result<(), MessagingError> {
        for dir in [&self.base, &self.database(), &self.logs(), &self.plugins()] {
            std::fs::create_dir_all(dir).map_err(MessagingError::file("create", dir))?;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
                .map_err(MessagingError::file("protect", dir))?;
            account.own(dir)?;
        }
        // Only its owner may be able to read it, or Erlang refuses to start.
        let cookie = identity
            .cluster_key
            .derive(&format!("rabbitmq/cookie/{}", identity.node_id));
        put(&self.base.join(".erlang.cookie"), &cookie, 0o400, account)?;
        put(&self.enabled_plugins(), "[].\n", 0o600, account)?;
        self.write_certificate(identity, account)
    }

    /// Writes the node's certificate and key, if they are others than before. A running server reads them anew within two
    /// minutes, for connections to come; until then the old ones hold.
    pub(crate) fn write_certificate(&self, identity: &NodeIdentity, account: &Account) -> Result<(), MessagingError> {
        put(&self.ca(), &identity.ca_certificate_pem, 0o600, account)?;
        let both = identity.chain_pem() + &identity.credentials.key_pem();
        put(&self.certificate(), &both, 0o600, account)
    }

    /// What the server said of its end, for people: what it printed when it could not boot, else the errors at the end of its
    /// log. One that was killed says nothing.
    pub(crate) fn last_words(&self) -> String {
        let printed = read_end(&self.output());
        let said = if printed.contains("BOOT FAILED") {
            shorten(printed.lines())
        } else {
            let log = read_end(&self.log_file());
            shorten(
                log.lines()
                    .filter(|line| line.contains("[error]") || line.contains("[critical]")),
            )
        };
        if said.is_empty() {
            String::new()
        } else {
            format!(": {said}")
        }
    }
}

/// How much of the end of a log is looked at.
const LOG_END_BYTES: usize = 8192;
/// What of it is shown.
const SHOWN_BYTES: usize = 600;

fn read_end(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_END_BYTES)..]).into_owned()
}

/// The last lines, as many as may be shown.
fn shorten<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let lines: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut bytes = 0;
    let fits = |line: &&&str| {
        bytes += line.len();
        bytes <= SHOWN_BYTES
    };
    let mut kept: Vec<&str> = lines.iter().rev().take_while(fits).copied().collect();
    kept.reverse();
    kept.join(" | ")
}

/// Writes a file with these rights for the account, unless it is as it should be.
pub(crate) fn put(path: &Path, text: &str, mode: u32, account: &Account) -> Result<(), MessagingError> {
    use std::io::Write;
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let side = path.with_extension("new");
    let write = || {
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(mode)
            .open(&side)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    // A file left from an interrupted write may be read-only even for its owner.
    let _absent = std::fs::remove_file(&side);
    write().map_err(MessagingError::file("write", &side))?;
    account.own(&side)?;
    std::fs::rename(&side, path).map_err(MessagingError::file("put in place", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_found_by_number() {
        let root = tempfile::tempdir().unwrap();
        for name in ["rabbitmq_server-3.9.27", "rabbitmq_server-3.10.8", "other-9"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        assert_eq!(newest(root.path()).unwrap(), root.path().join("rabbitmq_server-3.10.8"));
        assert!(newest(&root.path().join("other-9")).is_err());
    }

    #[test]
    fn last_words_are_about_the_end() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        assert_eq!(layout.last_words(), "");
        std::fs::create_dir_all(layout.logs()).unwrap();
        std::fs::write(
            layout.log_file(),
            "12:00 [info] a\n12:01 [error] port in use\n12:02 [info] b\n",
        )
        .unwrap();
        assert_eq!(layout.last_words(), ": 12:01 [error] port in use");
        std::fs::write(layout.output(), "BOOT FAILED\n\n  no cookie  \n").unwrap();
        assert_eq!(layout.last_words(), ": BOOT FAILED | no cookie");
        let long = format!("{}\nlast", "x".repeat(5000));
        assert_eq!(shorten(long.lines()), "last");
    }
}
