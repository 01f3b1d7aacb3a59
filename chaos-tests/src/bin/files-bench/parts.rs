//! What is brought to the nodes, and how that is measured. Each trial's node is another one than the last trial's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::content::{Workshop, same, small};
use crate::figures::Trials;
use crate::subject::{FILES_PORT, NODES, PATIENCE, Subject, Way};
use crate::visible::{Content, Wanted, wait};

/// Trials come at any moment of whatever happens periodically.
const PHASE_MS: std::ops::Range<u64> = 0..100;
/// The one that gets more and more bytes.
const EDITED: &str = "edited";

/// What is brought to the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// One small new file.
    Small,
    /// 1,000 files of 4 KiB.
    Set,
    /// One large new file.
    Large,
    /// One byte more in the middle of a large file that is there.
    Insert,
}

/// Something is made to happen, and what is to be seen of it then.
struct Happening<'a, S> {
    subject: &'a S,
    node: u8,
    way: Way,
    wanted: Vec<Wanted>,
}

impl<S: Subject> Happening<'_, S> {
    /// Does it: `on_disk`, which blocks, or `by_api`. How long until all is to be seen.
    async fn time(
        self,
        on_disk: impl FnOnce() -> std::io::Result<()> + Send + 'static,
        by_api: impl Future<Output = Result<()>>,
    ) -> Result<Duration> {
        tokio::time::sleep(Duration::from_millis(rand::random_range(PHASE_MS))).await;
        let since = Instant::now();
        let wanted = self.wanted;
        let waiting = tokio::task::spawn_blocking(move || wait(wanted, since, PATIENCE));
        match self.way {
            Way::Api => by_api.await?,
            Way::Disk => {
                tokio::task::spawn_blocking(on_disk).await?.context("change the tree")?;
                self.subject.changed(self.node).await?;
            }
        }
        waiting.await?
    }
}

impl Part {
    /// Its name in the results.
    pub fn key(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Set => "set",
            Self::Large => "large",
            Self::Insert => "insert",
        }
    }

    /// The same for people.
    pub fn what(self) -> &'static str {
        match self {
            Self::Small => "one file of 100 bytes",
            Self::Set => "1,000 files of 4 KiB as one set",
            Self::Large => "one large file",
            Self::Insert => "one byte inserted in its middle",
        }
    }

    /// So many trials.
    pub async fn run<S: Subject>(
        self,
        subject: &S,
        workshop: &Workshop,
        way: Way,
        count: usize,
        trials: &mut Trials,
    ) -> Result<()> {
        if matches!(self, Self::Large | Self::Insert) {
            trials.of_size(workshop.large_bytes);
        }
        if self == Self::Insert {
            // What the byte is inserted in; after the other way it is there already.
            ensure_edited(subject, workshop).await?;
        }
        for number in 0..count {
            let node = NODES[number % NODES.len()];
            match self {
                Self::Small => small_file(subject, workshop, way, node, number, trials).await,
                Self::Set => set(subject, workshop, way, node, number, trials).await,
                Self::Large => large(subject, workshop, way, node, number, trials).await,
                Self::Insert => insert(subject, workshop, way, node, trials).await,
            }
            .with_context(|| format!("trial {}", number + 1))?;
        }
        Ok(())
    }
}

async fn small_file<S: Subject>(
    subject: &S,
    workshop: &Workshop,
    way: Way,
    node: u8,
    number: usize,
    trials: &mut Trials,
) -> Result<()> {
    let content = small();
    let name = format!("{}-{number}", way.key());
    let source = workshop.file("small", &content)?;
    let wanted = NODES.map(|node| Wanted {
        path: subject.folder(node).join(&name),
        content: Content::Bytes(content.clone()),
    });
    let path = subject.folder(node).join(&name);
    let happening = Happening {
        subject,
        node,
        way,
        wanted: wanted.into(),
    };
    let on_disk = move || std::fs::write(path, content);
    trials.add(happening.time(on_disk, subject.put(node, &name, &source)).await?);
    Ok(())
}

async fn set<S: Subject>(
    subject: &S,
    workshop: &Workshop,
    way: Way,
    node: u8,
    number: usize,
    trials: &mut Trials,
) -> Result<()> {
    let name = format!("set-{}-{number}", way.key());
    let files = workshop.set(&name)?;
    let folder = workshop.path(&name);
    let archive = conclave_archive::pack_tar_gz(&folder, &name)?;
    let mut wanted = Vec::new();
    for node in NODES {
        let folder = subject.folder_of_sets(node, way).join(&name);
        wanted.extend(files.iter().map(|(file, content)| Wanted {
            path: folder.join(file),
            content: Content::Bytes(content.clone()),
        }));
    }
    let to = subject.folder_of_sets(node, way).join(&name);
    let happening = Happening {
        subject,
        node,
        way,
        wanted,
    };
    let on_disk = move || std::fs::rename(folder, to);
    trials.add(happening.time(on_disk, subject.put_set(node, archive)).await?);
    Ok(())
}

/// Brings a large file of the workshop to all nodes, under the same name.
async fn bring<S: Subject>(subject: &S, workshop: &Workshop, way: Way, node: u8, name: &str) -> Result<Duration> {
    let source = workshop.path(name);
    let length = std::fs::metadata(&source)?.len();
    let places = NODES.map(|node| subject.folder(node).join(name));
    let wanted = places.clone().map(|path| Wanted {
        path,
        content: Content::Length(length),
    });
    let happening = Happening {
        subject,
        node,
        way,
        wanted: wanted.into(),
    };
    let to = subject.folder(node).join(name);
    let copy = match way {
        Way::Disk => workshop.copy(&source)?,
        Way::Api => PathBuf::new(),
    };
    let on_disk = move || std::fs::rename(copy, to);
    let time = happening.time(on_disk, subject.put(node, name, &source)).await?;
    for place in places {
        same(&source, &place)?;
    }
    Ok(time)
}

/// Under a new name each time: Syncthing's watcher waits longer for what was deleted a moment ago.
async fn large<S: Subject>(
    subject: &S,
    workshop: &Workshop,
    way: Way,
    node: u8,
    number: usize,
    trials: &mut Trials,
) -> Result<()> {
    let name = format!("large-{}-{number}", way.key());
    let source = workshop.large(&name)?;
    trials.add(bring(subject, workshop, way, node, &name).await?);
    std::fs::remove_file(source)?;
    remove(subject, node, &name).await
}

async fn remove<S: Subject>(subject: &S, node: u8, name: &str) -> Result<()> {
    let places = NODES.map(|node| subject.folder(node).join(name));
    std::fs::remove_file(subject.folder(node).join(name))?;
    subject.look_now(node).await?;
    let gone = || async { places.iter().all(|place| !place.exists()).then_some(()) };
    let gone = conclave_chaos_tests::within(PATIENCE, gone).await;
    gone.with_context(|| format!("{name} stays"))
}

async fn ensure_edited<S: Subject>(subject: &S, workshop: &Workshop) -> Result<()> {
    if !workshop.path(EDITED).exists() {
        workshop.large(EDITED)?;
        bring(subject, workshop, subject.ways()[0], NODES[0], EDITED).await?;
    }
    Ok(())
}

async fn insert<S: Subject>(subject: &S, workshop: &Workshop, way: Way, node: u8, trials: &mut Trials) -> Result<()> {
    workshop.insert(EDITED)?;
    let (moved, carried) = (subject.moved().await?, carried(&subject.addresses())?);
    let time = bring(subject, workshop, way, node, EDITED).await?;
    let moved = subject.moved().await? - moved;
    // A client of the API sends the whole file over the same port.
    let wire = match way {
        Way::Disk => Some(grown(&carried, &self::carried(&subject.addresses())?)),
        Way::Api => None,
    };
    trials.add(time);
    trials.cost(moved, wire);
    Ok(())
}

/// What each end of each connection for files has sent, by its two addresses: the system's own count, with encryption, without headers.
fn carried(nodes: &[String]) -> Result<BTreeMap<(String, String), u64>> {
    let filter = format!("( sport = :{FILES_PORT} or dport = :{FILES_PORT} )");
    let output = std::process::Command::new("ss")
        .args(["-tinHO", "state", "established", &filter])
        .output()
        .context("start ss")?;
    ensure!(
        output.status.success(),
        "ss: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let is_node = |end: &str| {
        end.rsplit_once(':')
            .is_some_and(|(address, port)| port == FILES_PORT.to_string() && nodes.iter().any(|node| node == address))
    };
    let mut all = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut fields = line.split_whitespace().skip(2);
        let (Some(own), Some(peer)) = (fields.next(), fields.next()) else {
            continue;
        };
        if is_node(own) || is_node(peer) {
            let sent = fields.find_map(|field| field.strip_prefix("bytes_sent:"));
            let sent = sent.and_then(|bytes| bytes.parse().ok()).unwrap_or_default();
            all.insert((own.to_owned(), peer.to_owned()), sent);
        }
    }
    Ok(all)
}

/// How much more was sent. What was sent by connections that are gone is not known any more.
fn grown(before: &BTreeMap<(String, String), u64>, after: &BTreeMap<(String, String), u64>) -> u64 {
    let more =
        |(ends, sent): (&(String, String), &u64)| sent.saturating_sub(before.get(ends).copied().unwrap_or_default());
    after.iter().map(more).sum()
}
