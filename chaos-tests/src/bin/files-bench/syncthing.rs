//! Debian's syncthing: three of them that share one folder with each other.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use conclave_chaos_tests::within;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::subject::{FILES_PORT, NODES, PATIENCE, Subject, Way};
use crate::visible::{Content, Wanted, wait};

const PROGRAM: &str = "syncthing";
const REST_PORT: u16 = 8384;
const KEY: &str = "bench";
const FOLDER: &str = "bench";
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// How it comes to know of a change on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noticing {
    /// By its watcher, which waits for more before it tells.
    Watching {
        /// Whole seconds; at least one.
        delay_s: u32,
    },
    /// By a call of its API that has it scan the folder at once. Nobody does that after each change, but it shows the transfer alone.
    Asked,
}

/// The instances. Dropping them ends them.
pub struct Syncthing {
    name: String,
    version: String,
    noticing: Noticing,
    folder: PathBuf,
    first: Ipv4Addr,
    instances: Vec<Child>,
}

impl Syncthing {
    /// Starts them and waits until files come through.
    pub async fn start(folder: &Path, first: Ipv4Addr, noticing: Noticing) -> Result<Self> {
        let name = match noticing {
            Noticing::Watching { delay_s: 10 } => "Syncthing, default settings".to_owned(),
            Noticing::Watching { delay_s } => format!("Syncthing, watcher delay {delay_s} s"),
            Noticing::Asked => "Syncthing, told to scan after each change".to_owned(),
        };
        let said = output(Command::new(PROGRAM).arg("--version"))?;
        let version: Vec<&str> = said.split_whitespace().take(2).collect();
        let mut syncthing = Self {
            name,
            version: version.join(" "),
            noticing,
            folder: folder.to_owned(),
            first,
            instances: Vec::new(),
        };
        syncthing.configure()?;
        for node in NODES {
            let instance = syncthing.start_one(node)?;
            syncthing.instances.push(instance);
        }
        let outcome = syncthing.warm_up().await;
        if outcome.is_err() {
            for node in NODES {
                let log = std::fs::read_to_string(syncthing.home(node).join("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("{}", lines[lines.len().saturating_sub(20)..].join("\n"));
            }
        }
        outcome?;
        Ok(syncthing)
    }

    fn home(&self, node: u8) -> PathBuf {
        self.folder.join(format!("home{node}"))
    }

    fn address(&self, node: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits() + u32::from(node) - 1)
    }

    fn configure(&self) -> Result<()> {
        let mut ids = Vec::new();
        for node in NODES {
            let home = format!("--home={}", self.home(node).display());
            let flags = ["generate", "--no-default-folder", "--skip-port-probing"];
            output(Command::new(PROGRAM).args(flags).arg(&home))?;
            let id = output(Command::new(PROGRAM).args(["--device-id", &home]))?;
            ids.push(id.trim().to_owned());
            // Without this marker it takes the folder for a disk that is not mounted.
            std::fs::create_dir_all(self.folder(node).join(".stfolder"))?;
        }
        let delay_s = match self.noticing {
            Noticing::Watching { delay_s } => delay_s,
            Noticing::Asked => 10,
        };
        for node in NODES {
            let file = self.home(node).join("config.xml");
            let generated = std::fs::read_to_string(&file)?;
            let peers: Vec<Peer<'_>> = NODES
                .iter()
                .zip(&ids)
                .map(|(node, id)| Peer {
                    id,
                    address: self.address(*node),
                })
                .collect();
            let own = configuration(&generated, &self.folder(node), delay_s, self.address(node), &peers);
            std::fs::write(file, own.context("the generated configuration is not as expected")?)?;
        }
        Ok(())
    }

    /// Each is two processes, of which the first one watches over the other and, asked to stop, waits for it.
    fn end(&mut self) -> Result<()> {
        for instance in &self.instances {
            kill(Pid::from_raw(i32::try_from(instance.id())?), Signal::SIGTERM)?;
        }
        for mut instance in self.instances.drain(..) {
            let since = Instant::now();
            while instance.try_wait()?.is_none() {
                ensure!(since.elapsed() < PATIENCE, "process {} does not stop", instance.id());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    fn start_one(&self, node: u8) -> Result<Child> {
        let home = self.home(node);
        let log = File::create(home.join("log"))?;
        let flags = ["serve", "--no-browser", "--no-restart", "--no-upgrade", "--logfile=-"];
        Command::new(PROGRAM)
            .args(flags)
            .arg(format!("--home={}", home.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start syncthing")
    }

    /// All of them connected, and a file by each.
    async fn warm_up(&self) -> Result<()> {
        for node in NODES {
            let connected = || async {
                let answer = self.ask(node, "GET", "/rest/system/connections").await.ok()?;
                let others = answer["connections"].as_object()?.values();
                (others.filter(|other| other["connected"] == true).count() == NODES.len() - 1).then_some(())
            };
            within(PATIENCE, connected)
                .await
                .context("they do not find each other")?;
        }
        let mut wanted = Vec::new();
        let since = Instant::now();
        for node in NODES {
            let name = format!("warm-up-{node}");
            std::fs::write(self.folder(node).join(&name), b"warm")?;
            self.changed(node).await?;
            wanted.extend(NODES.map(|node| Wanted {
                path: self.folder(node).join(&name),
                content: Content::Bytes(b"warm".to_vec()),
            }));
        }
        tokio::task::spawn_blocking(move || wait(wanted, since, PATIENCE)).await??;
        Ok(())
    }

    async fn ask(&self, node: u8, method: &str, path: &str) -> Result<Value> {
        let asking = async {
            let mut stream = TcpStream::connect((self.address(node), REST_PORT)).await?;
            let address = self.address(node);
            // Of HTTP/1.0, because its answers are not in pieces.
            let request =
                format!("{method} {path} HTTP/1.0\r\nHost: {address}:{REST_PORT}\r\nX-API-Key: {KEY}\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = tokio::time::timeout(ANSWER_LIMIT, asking)
            .await
            .context("no answer")??;
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n").context("no whole answer")?;
        let status = head.split(' ').nth(1);
        ensure!(status == Some("200"), "{path}: {head}: {body}");
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(body).with_context(|| format!("the answer to {path}"))
    }
}

/// One of them, as the others' configurations name it.
struct Peer<'a> {
    id: &'a str,
    address: Ipv4Addr,
}

/// A generated configuration, with these devices, a folder that they share, and nothing that leaves the machine. Everything that is not
/// named stays as it comes: what is left out of the file is not what the program's own defaults are.
fn configuration(generated: &str, path: &Path, delay_s: u32, address: Ipv4Addr, peers: &[Peer<'_>]) -> Option<String> {
    let (_, defaults) = generated.split_once("<defaults>")?;
    let template = |tag: &str| {
        let from = defaults.find(&format!("<{tag} id=\"\""))?;
        let end = format!("\n        </{tag}>");
        let length = defaults.get(from..)?.find(&end)? + end.len();
        defaults.get(from..from + length)
    };
    let (folder, device) = (template("folder")?, template("device")?);
    let share: String = peers
        .iter()
        .map(|peer| format!("<device id=\"{}\"></device>", peer.id))
        .collect();
    let folder = folder
        .replacen("id=\"\"", &format!("id=\"{FOLDER}\""), 1)
        .replacen("path=\"~\"", &format!("path=\"{}\"", path.display()), 1)
        .replacen("fsWatcherDelayS=\"10\"", &format!("fsWatcherDelayS=\"{delay_s}\""), 1);
    // The first device in it is whoever generated it.
    let (before, rest) = folder.split_once("<device ")?;
    let (_, after) = rest.split_once("</device>")?;
    let folder = format!("{before}{share}{after}");
    let devices: String = peers
        .iter()
        .map(|peer| {
            device
                .replacen("id=\"\"", &format!("id=\"{}\" name=\"{}\"", peer.id, peer.address), 1)
                .replacen("dynamic", &format!("tcp://{}:{FILES_PORT}", peer.address), 1)
        })
        .collect();
    let (head, _) = generated.split_once("<device ")?;
    let (_, rest) = generated.split_once("<gui ")?;
    let (gui, listen) = (
        format!("{address}:{REST_PORT}"),
        format!("tcp://{address}:{FILES_PORT}"),
    );
    let mut rest = rest.to_owned();
    for (tag, value) in [
        ("address", gui.as_str()),
        ("apikey", KEY),
        ("listenAddress", &listen),
        ("globalAnnounceEnabled", "false"),
        ("localAnnounceEnabled", "false"),
        ("relaysEnabled", "false"),
        ("natEnabled", "false"),
        ("reconnectionIntervalS", "1"),
        ("startBrowser", "false"),
        ("urAccepted", "-1"),
        ("autoUpgradeIntervalH", "0"),
        ("crashReportingEnabled", "false"),
    ] {
        let (before, after) = rest.split_once(&format!("<{tag}>"))?;
        let (_, after) = after.split_once(&format!("</{tag}>"))?;
        rest = format!("{before}<{tag}>{value}</{tag}>{after}");
    }
    Some(format!("{head}{folder}\n{devices}\n<gui {rest}"))
}

/// What a program prints.
fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output().context("start syncthing: use deploy/bench")?;
    ensure!(status.success(), "syncthing: {}", String::from_utf8_lossy(&stderr));
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

impl Subject for Syncthing {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn ways(&self) -> &'static [Way] {
        &[Way::Disk]
    }

    fn folder(&self, node: u8) -> PathBuf {
        self.folder.join(format!("tree{node}"))
    }

    fn folder_of_sets(&self, node: u8, _way: Way) -> PathBuf {
        self.folder(node)
    }

    async fn put(&self, _node: u8, _name: &str, _source: &Path) -> Result<()> {
        bail!("it takes no files through its API")
    }

    async fn put_set(&self, _node: u8, _archive: Vec<u8>) -> Result<()> {
        bail!("it takes no files through its API")
    }

    async fn changed(&self, node: u8) -> Result<()> {
        if self.noticing == Noticing::Asked {
            self.look_now(node).await?;
        }
        Ok(())
    }

    /// Deletions would wait for a minute.
    async fn look_now(&self, node: u8) -> Result<()> {
        self.ask(node, "POST", &format!("/rest/db/scan?folder={FOLDER}"))
            .await?;
        Ok(())
    }

    /// All that came over their connections.
    async fn moved(&self) -> Result<u64> {
        let mut all = 0;
        for node in NODES {
            let answer = self.ask(node, "GET", "/rest/system/connections").await?;
            let bytes = answer["total"]["inBytesTotal"].as_u64();
            all += bytes.context("the bytes received")?;
        }
        Ok(all)
    }

    fn addresses(&self) -> Vec<String> {
        NODES.map(|node| self.address(node).to_string()).into()
    }

    async fn stop(&mut self) -> Result<()> {
        self.end()
    }
}

impl Drop for Syncthing {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("syncthing was not ended: {error}");
        }
    }
}
