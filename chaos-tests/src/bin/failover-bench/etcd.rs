//! Three members of etcd, one on each machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use conclave_chaos_tests::hosts::{Hosts, address};

use crate::subject::NODES;

/// The members. Dropping them ends them.
pub struct Etcd {
    folder: PathBuf,
    namespaces: Vec<PathBuf>,
    members: [Option<Child>; NODES.len()],
}

impl Etcd {
    /// Starts all of them; they may still be looking for each other.
    pub fn start(folder: &Path, hosts: &Hosts) -> Result<Self> {
        let mut etcd = Self {
            folder: folder.to_owned(),
            namespaces: hosts.namespaces(),
            members: [const { None }; NODES.len()],
        };
        for node in NODES {
            etcd.start_member(node)?;
        }
        Ok(etcd)
    }

    /// Starts a member on the data that it has, if any.
    pub fn start_member(&mut self, node: u8) -> Result<()> {
        let index = usize::from(node) - 1;
        let name = |node: u8| format!("etcd{node}");
        let url = |node: u8, port: u16| format!("http://{}:{port}", address(node));
        let all: Vec<String> = NODES.map(|node| format!("{}={}", name(node), url(node, 2380))).to_vec();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("{}.log", name(node))))?;
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.namespaces[index].display()))
            .arg("etcd")
            .args(["--name", &name(node)])
            .arg("--data-dir")
            .arg(self.folder.join(name(node)))
            .args(["--listen-client-urls", &url(node, 2379)])
            .args(["--advertise-client-urls", &url(node, 2379)])
            .args(["--listen-peer-urls", &url(node, 2380)])
            .args(["--initial-advertise-peer-urls", &url(node, 2380)])
            .args(["--initial-cluster", &all.join(",")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start etcd")?;
        self.members[index] = Some(child);
        Ok(())
    }

    /// Kills a member.
    pub fn kill_member(&mut self, node: u8) -> Result<()> {
        if let Some(mut child) = self.members[usize::from(node) - 1].take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for node in NODES {
            if let Err(error) = self.kill_member(node) {
                eprintln!("etcd{node} was not ended: {error}");
            }
        }
    }
}
