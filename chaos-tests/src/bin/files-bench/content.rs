//! What is brought to the nodes: bytes that nobody has seen before and that do not compress.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rand::RngCore;

/// How many files a set has.
pub const SET_FILES: usize = 1000;
const SET_FILE_BYTES: usize = 4 << 10;
const SMALL_BYTES: usize = 100;
const PIECE_BYTES: usize = 1 << 20;

/// Where things are made ready.
pub struct Workshop {
    folder: PathBuf,
    /// Size of a large file.
    pub large_bytes: u64,
}

/// Random bytes.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    rand::rng().fill_bytes(&mut noise);
    noise
}

/// The content of a small file.
pub fn small() -> Vec<u8> {
    noise(SMALL_BYTES)
}

impl Workshop {
    /// An empty one.
    pub fn new(folder: &Path, large_bytes: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(Self {
            folder: folder.to_owned(),
            large_bytes,
        })
    }

    /// The place of something.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A file with this content.
    pub fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// A folder with a set, and what is in it.
    pub fn set(&self, name: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let folder = self.path(name);
        std::fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        let mut files = Vec::new();
        for number in 0..SET_FILES {
            let file = format!("{number:04}");
            let content = noise(SET_FILE_BYTES);
            std::fs::write(folder.join(&file), &content).with_context(|| format!("write {file} of {name}"))?;
            files.push((file, content));
        }
        // The disk is not busy with them any more when the trial begins.
        nix::unistd::syncfs(File::open(&folder)?)?;
        Ok(files)
    }

    /// A large file.
    pub fn large(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let mut left = self.large_bytes;
        while left > 0 {
            let piece = left.min(PIECE_BYTES as u64);
            file.write_all(&noise(usize::try_from(piece)?))?;
            left -= piece;
        }
        // The disk is not busy with it any more when the trial begins.
        file.sync_all()?;
        Ok(path)
    }

    /// Inserts one byte in the middle of a file of the workshop.
    pub fn insert(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        let mut content = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let middle = content.len() / 2;
        content.insert(middle, rand::random());
        let mut file = File::create(&path)?;
        file.write_all(&content)?;
        Ok(file.sync_all()?)
    }

    /// A copy that can be put into a tree by its name, and is no load for the disk any more.
    pub fn copy(&self, source: &Path) -> Result<PathBuf> {
        let path = self.path("copy");
        std::fs::copy(source, &path).with_context(|| format!("copy {}", source.display()))?;
        File::open(&path)?.sync_all()?;
        Ok(path)
    }
}

/// Fails when two files differ.
pub fn same(one: &Path, other: &Path) -> Result<()> {
    let open = |path: &Path| File::open(path).with_context(|| format!("open {}", path.display()));
    let (mut first, mut second) = (open(one)?, open(other)?);
    let (wanted, found) = (first.metadata()?.len(), second.metadata()?.len());
    ensure!(
        found == wanted,
        "{} has {found} bytes instead of {wanted}",
        other.display()
    );
    let (mut left, mut right) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    loop {
        let read = first.read(&mut left)?;
        if read == 0 {
            return Ok(());
        }
        second.read_exact(&mut right[..read])?;
        ensure!(left[..read] == right[..read], "{} has other bytes", other.display());
    }
}
