//! Machines as network namespaces, with a router between them that the test owns and can break.
//!
//! The test's thread becomes the router: [`Hosts::new`] moves it, and whatever it starts from then on, into a network and a
//! mount namespace of its own. Nothing of it is seen outside, and nothing of it is left when its processes have ended.
//!
//! Packets from one node to another are dropped in the router, in either direction by itself and without a word to the sender;
//! the test reaches every node all the time, as a client on its side of a partition would.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// The address of `node1`; the others' follow it.
pub const FIRST_HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);

/// The machines. Dropping them changes nothing: their networks end with the processes in them.
pub struct Hosts {
    namespaces: Vec<File>,
    cuts: Mutex<BTreeSet<(u8, u8)>>,
}

impl Hosts {
    /// So many machines; `None` when this account may not make them. The calling thread becomes their router: call it before
    /// the runtime is made, so that its threads are there as well.
    ///
    /// # Panics
    /// When the kernel lacks namespaces, virtual links or rules.
    #[must_use]
    pub fn new(count: u8) -> Option<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces for the router");
        let nowhere = None::<&Path>;
        mount(nowhere, "/", nowhere, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nowhere).expect("mounts of our own");
        run("ip", &["link", "set", "lo", "up"]);
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
        let hosts = Self {
            namespaces: (1..=count).map(|_| new_namespace()).collect(),
            cuts: Mutex::default(),
        };
        for number in 1..=count {
            hosts.wire(number);
        }
        Some(hosts)
    }

    fn wire(&self, number: u8) {
        let (namespace, address) = (self.namespace(number), address(number).to_string());
        let (near, far) = (format!("host{number}"), format!("far{number}"));
        let (gateway, leg) = (format!("10.77.{number}.1"), format!("10.77.{number}.2"));
        run("ip", &["link", "add", &near, "type", "veth", "peer", "name", &far]);
        run("ip", &["link", "set", &far, "netns", &namespace.to_string_lossy()]);
        run("ip", &["address", "add", &format!("{gateway}/24"), "dev", &near]);
        let within = |arguments: &[&str]| {
            let net = format!("--net={}", namespace.display());
            run("nsenter", &[&[net.as_str(), "ip"], arguments].concat());
        };
        within(&["link", "set", "lo", "up"]);
        within(&["link", "set", &far, "name", "eth0"]);
        within(&["address", "add", &format!("{leg}/24"), "dev", "eth0"]);
        within(&["address", "add", &format!("{address}/32"), "dev", "eth0"]);
        within(&["link", "set", "eth0", "up"]);
        self.plug(number);
        within(&["route", "add", "default", "via", &gateway, "src", &address]);
    }

    /// The file of a machine's network namespace.
    #[must_use]
    pub fn namespace(&self, number: u8) -> PathBuf {
        let file = &self.namespaces[usize::from(number) - 1];
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
    }

    /// All of them.
    #[must_use]
    pub fn namespaces(&self) -> Vec<PathBuf> {
        (1..=self.count()).map(|number| self.namespace(number)).collect()
    }

    /// Moves the calling thread to a machine, by the file of its network: the sockets that it opens from then on are that
    /// machine's.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(namespace: &Path) -> std::io::Result<()> {
        Ok(setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u8 {
        u8::try_from(self.namespaces.len()).unwrap_or(u8::MAX)
    }

    /// From now on nothing that `from` sends comes to `to`.
    pub fn cut(&self, from: u8, to: u8) {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        if cuts.insert((from, to)) {
            rule("add", from, to);
        }
    }

    /// The two do not hear each other any more.
    pub fn cut_both(&self, a: u8, b: u8) {
        self.cut(a, b);
        self.cut(b, a);
    }

    /// The node hears no other, and no other hears it.
    pub fn isolate(&self, number: u8) {
        for other in (1..=self.count()).filter(|other| *other != number) {
            self.cut_both(number, other);
        }
    }

    /// Everybody hears everybody.
    pub fn mend(&self) {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        for (from, to) in std::mem::take(&mut *cuts) {
            rule("del", from, to);
        }
    }

    /// Pulls a machine's cable: the test does not reach it either.
    pub fn unplug(&self, number: u8) {
        run("ip", &["link", "set", &format!("host{number}"), "down"]);
    }

    /// Puts it back.
    pub fn plug(&self, number: u8) {
        run("ip", &["link", "set", &format!("host{number}"), "up"]);
        let (address, leg) = (format!("{}/32", address(number)), format!("10.77.{number}.2"));
        run("ip", &["route", "replace", &address, "via", &leg]);
    }
}

/// A machine's address.
#[must_use]
pub fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_HOST.to_bits() + u32::from(number) - 1)
}

/// A disk of limited size at `folder`, which is made.
///
/// # Panics
/// When it cannot be mounted.
pub fn mount_small_disk(folder: &Path, mebibytes: u32) {
    std::fs::create_dir_all(folder).expect("a place for the disk");
    let options = format!("size={mebibytes}m,mode=755");
    let none = MsFlags::empty();
    mount(
        Some("conclave-test"),
        folder,
        Some("tmpfs"),
        none,
        Some(options.as_str()),
    )
    .expect("a small disk");
}

/// Takes it away, once nothing uses it any more.
///
/// # Panics
/// When it is not there.
pub fn unmount(folder: &Path) {
    umount2(folder, MntFlags::MNT_DETACH).expect("the disk is there");
}

/// Blackholes drop without an answer: the sender sees what it would see of a broken network.
fn rule(what: &str, from: u8, to: u8) {
    let (from, to) = (address(from).to_string(), address(to).to_string());
    run("ip", &["rule", what, "from", &from, "to", &to, "blackhole"]);
}

fn new_namespace() -> File {
    let maker = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        File::open("/proc/thread-self/ns/net").expect("its file")
    });
    maker.join().expect("the thread that makes a namespace")
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        said.trim()
    );
}
