//! Where everything of a local cluster lies.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// The address of the first node, if nobody chose another.
pub const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// The folders of a local cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    dir: PathBuf,
    first_address: Ipv4Addr,
}

/// The folders and files of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLayout {
    /// Its name: `node1`, `node2`, …
    pub name: String,
    /// Its loopback address: 127.0.0.11 for `node1` if nobody chose another, and so on.
    pub address: IpAddr,
    /// Its folder.
    pub dir: PathBuf,
}

impl Layout {
    /// A cluster below `dir`, which need not exist.
    pub fn new(dir: &Path) -> Self {
        Self::at(dir, FIRST_ADDRESS)
    }

    /// A cluster below `dir` whose first node has this address; the others' follow it.
    pub fn at(dir: &Path, first_address: Ipv4Addr) -> Self {
        Self {
            dir: dir.to_owned(),
            first_address,
        }
    }

    /// The folder that holds everything.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The address of the first node.
    pub fn first_address(&self) -> Ipv4Addr {
        self.first_address
    }

    /// What the cluster was made with, including the administrator's password: readable by its owner alone.
    pub fn facts_file(&self) -> PathBuf {
        self.dir.join("cluster.json")
    }

    /// The certificate that clients verify all nodes with.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The node with this number, from 1.
    pub fn node(&self, number: u8) -> NodeLayout {
        let name = format!("node{number}");
        let dir = self.dir.join(&name);
        NodeLayout {
            name,
            address: IpAddr::V4(Ipv4Addr::from_bits(
                self.first_address.to_bits() + u32::from(number.saturating_sub(1)),
            )),
            dir,
        }
    }
}

impl NodeLayout {
    /// Its configuration.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("node.yaml")
    }

    /// What the manager keeps.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What the manager says.
    pub fn log_file(&self) -> PathBuf {
        self.dir.join("manager.log")
    }

    /// Which process the broker is, as its manager wrote it down.
    pub fn broker_process_file(&self) -> PathBuf {
        self.data_dir().join("rabbitmq.json")
    }

    /// Which process the manager is.
    pub fn process_file(&self) -> PathBuf {
        self.dir.join("manager.json")
    }
}

/// The folder for a cluster whose user named none: `conclave/local` below the user's state directory. Root's lies below
/// `/var/lib`, because PostgreSQL runs under another account, which may not enter root's home.
pub fn default_dir() -> PathBuf {
    if nix::unistd::Uid::effective().is_root() {
        return PathBuf::from("/var/lib/conclave/local");
    }
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    state
        .unwrap_or_else(|| home().join(".local/state"))
        .join("conclave/local")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_names_addresses_and_folders_of_their_own() {
        let layout = Layout::new(Path::new("/x"));
        let node = layout.node(3);
        assert_eq!(
            (node.name.as_str(), node.address.to_string().as_str()),
            ("node3", "127.0.0.13")
        );
        assert_eq!(node.config_file(), Path::new("/x/node3/node.yaml"));
        let elsewhere = Layout::at(Path::new("/x"), Ipv4Addr::new(127, 0, 0, 21));
        assert_eq!(elsewhere.node(2).address.to_string(), "127.0.0.22");
    }
}
