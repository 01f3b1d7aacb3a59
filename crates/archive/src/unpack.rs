//! Unpacking.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::ArchiveKind;

/// What an archive may unfold to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Files, folders and links.
    pub entries: usize,
    /// All contents together, unpacked.
    pub bytes: u64,
}

impl Default for Limits {
    /// Far above any real blueprint.
    fn default() -> Self {
        Self {
            entries: 20_000,
            bytes: 2 << 30,
        }
    }
}

/// Why an archive was refused. Nothing of it is left then.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// None of the known formats.
    #[error("the file is no archive: zip, tar, tar.gz or tar.bz2 is expected")]
    UnknownFormat,
    /// The format is broken.
    #[error("the archive is damaged: {0}")]
    Damaged(String),
    /// An entry that would lead out of the folder, or is no file, folder or link.
    #[error("the archive's entry {0:?} is refused: {1}")]
    Refused(String, &'static str),
    /// A limit is exceeded.
    #[error("the archive unfolds to more than {0}")]
    TooLarge(String),
    /// The system refused.
    #[error("unpacking to {path}: {source}", path = path.display())]
    System {
        /// Where.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
}

/// Unpacks `archive` into the folder `into`, which must not exist yet. Blocking.
///
/// # Errors
/// See [`ArchiveError`]; `into` does not exist then.
pub fn unpack(archive: &Path, into: &Path, limits: &Limits) -> Result<ArchiveKind, ArchiveError> {
    let system = |source| ArchiveError::System {
        path: archive.to_owned(),
        source,
    };
    let mut file = File::open(archive).map_err(system)?;
    let mut start = Vec::new();
    Read::by_ref(&mut file)
        .take(512)
        .read_to_end(&mut start)
        .map_err(system)?;
    file.seek(SeekFrom::Start(0)).map_err(system)?;
    let kind = ArchiveKind::detect(&start).ok_or(ArchiveError::UnknownFormat)?;
    std::fs::create_dir_all(into).map_err(|source| ArchiveError::System {
        path: into.to_owned(),
        source,
    })?;
    let mut target = Target {
        root: into,
        limits,
        entries: 0,
        bytes: 0,
    };
    let reader = BufReader::new(file);
    let outcome = match kind {
        ArchiveKind::Zip => target.take_zip(reader),
        ArchiveKind::Tar => target.take_tar(reader),
        ArchiveKind::TarGz => target.take_tar(flate2::read::MultiGzDecoder::new(reader)),
        ArchiveKind::TarBz2 => target.take_tar(bzip2::read::MultiBzDecoder::new(reader)),
    };
    if outcome.is_err() {
        // The error that led here is what matters; what could not be removed lies in a temporary folder.
        let _left_over = std::fs::remove_dir_all(into);
    }
    outcome.map(|()| kind)
}

/// The only folder in `folder`, when there is nothing else: archives of blueprints have one at the top.
pub fn single_folder(folder: &Path) -> Option<PathBuf> {
    let mut entries = std::fs::read_dir(folder).ok()?.flatten();
    let (first, second) = (entries.next()?, entries.next());
    (second.is_none() && first.file_type().ok()?.is_dir()).then(|| first.path())
}

struct Target<'a> {
    root: &'a Path,
    limits: &'a Limits,
    entries: usize,
    bytes: u64,
}

impl Target<'_> {
    fn take_zip<R: Read + Seek>(&mut self, reader: R) -> Result<(), ArchiveError> {
        let damaged = |error: zip::result::ZipError| ArchiveError::Damaged(error.to_string());
        let mut archive = zip::ZipArchive::new(reader).map_err(damaged)?;
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).map_err(damaged)?;
            let name = entry.name().map_err(damaged)?.into_owned();
            let mode = entry.unix_mode().unwrap_or(0o644);
            let path = self.place(&name)?;
            if entry.is_dir() {
                self.folder(&path)?;
            } else if mode & 0o170_000 == 0o120_000 {
                let mut link = String::new();
                Read::by_ref(&mut entry)
                    .take(4096)
                    .read_to_string(&mut link)
                    .map_err(|error| ArchiveError::Damaged(error.to_string()))?;
                self.link(&name, &path, Path::new(&link))?;
            } else {
                self.file(&path, mode, &mut entry)?;
            }
        }
        Ok(())
    }

    fn take_tar<R: Read>(&mut self, reader: R) -> Result<(), ArchiveError> {
        let damaged = |error: std::io::Error| ArchiveError::Damaged(error.to_string());
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            let name = entry.path().map_err(damaged)?.to_string_lossy().into_owned();
            let mode = entry.header().mode().unwrap_or(0o644);
            let path = self.place(&name)?;
            match entry.header().entry_type() {
                tar::EntryType::Directory => self.folder(&path)?,
                tar::EntryType::Regular | tar::EntryType::Continuous => self.file(&path, mode, &mut entry)?,
                tar::EntryType::Symlink => {
                    let link = entry.link_name().map_err(damaged)?.unwrap_or_default().into_owned();
                    self.link(&name, &path, &link)?;
                }
                tar::EntryType::XGlobalHeader | tar::EntryType::XHeader => {}
                _ => return Err(ArchiveError::Refused(name, "it is no file, folder or symbolic link")),
            }
        }
        Ok(())
    }

    /// Where an entry goes; counts it.
    fn place(&mut self, name: &str) -> Result<PathBuf, ArchiveError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(ArchiveError::TooLarge(format!("{} entries", self.limits.entries)));
        }
        let refused = |why| ArchiveError::Refused(name.to_owned(), why);
        let mut path = self.root.to_owned();
        for part in Path::new(name).components() {
            match part {
                Component::Normal(part) => path.push(part),
                Component::CurDir => {}
                _ => return Err(refused("it leads out of the folder")),
            }
            // A link that an earlier entry made is not followed.
            if path != self.root.join(name.trim_end_matches('/')) && path.is_symlink() {
                return Err(refused("a link is on its way"));
            }
        }
        Ok(path)
    }

    fn folder(&self, path: &Path) -> Result<(), ArchiveError> {
        std::fs::create_dir_all(path).map_err(|source| ArchiveError::System {
            path: path.to_owned(),
            source,
        })
    }

    fn file(&mut self, path: &Path, mode: u32, content: &mut dyn Read) -> Result<(), ArchiveError> {
        let system = |source| ArchiveError::System {
            path: path.to_owned(),
            source,
        };
        self.folder(path.parent().unwrap_or(self.root))?;
        if path.is_symlink() {
            std::fs::remove_file(path).map_err(system)?;
        }
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .map_err(system)?;
        let left = self.limits.bytes - self.bytes;
        let copied = std::io::copy(&mut content.take(left + 1), &mut file)
            .map_err(|error| ArchiveError::Damaged(error.to_string()))?;
        self.bytes += copied;
        if copied > left {
            return Err(ArchiveError::TooLarge(format!("{} bytes", self.limits.bytes)));
        }
        // Set-user-id and the like are dropped; the owner can always read and write.
        let permissions = std::fs::Permissions::from_mode((mode & 0o777) | 0o600);
        file.set_permissions(permissions).map_err(system)
    }

    fn link(&self, name: &str, path: &Path, link: &Path) -> Result<(), ArchiveError> {
        let refused = || ArchiveError::Refused(name.to_owned(), "the link leads out of the folder");
        let folder = path.parent().unwrap_or(self.root);
        let mut depth = folder
            .strip_prefix(self.root)
            .map_err(|_| refused())?
            .components()
            .count();
        for part in link.components() {
            match part {
                Component::Normal(_) => depth += 1,
                Component::CurDir => {}
                Component::ParentDir => depth = depth.checked_sub(1).ok_or_else(refused)?,
                _ => return Err(refused()),
            }
        }
        self.folder(folder)?;
        symlink(link, path).map_err(|source| ArchiveError::System {
            path: path.to_owned(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn tar_of(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            // The builder refuses such names itself.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(bytes: &[u8], limits: &Limits) -> (tempfile::TempDir, Result<ArchiveKind, ArchiveError>) {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("archive");
        std::fs::write(&archive, bytes).unwrap();
        let outcome = unpack(&archive, &dir.path().join("out"), limits);
        (dir, outcome)
    }

    #[test]
    fn what_is_packed_unpacks() {
        let source = tempfile::tempdir().unwrap();
        std::fs::create_dir(source.path().join("scripts")).unwrap();
        std::fs::write(source.path().join("scripts/a.sh"), "echo").unwrap();
        std::fs::set_permissions(
            source.path().join("scripts/a.sh"),
            std::fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        let (dir, outcome) = unpacked(&crate::pack_tar_gz(source.path(), "bp").unwrap(), &Limits::default());
        assert_eq!(outcome.unwrap(), ArchiveKind::TarGz);
        let top = single_folder(&dir.path().join("out")).unwrap();
        let script = top.join("scripts/a.sh");
        assert_eq!(std::fs::read_to_string(&script).unwrap(), "echo");
        assert_eq!(script.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn a_zip_unpacks() {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        writer
            .start_file("bp/blueprint.yaml", zip::write::SimpleFileOptions::default())
            .unwrap();
        writer.write_all(b"x: 1").unwrap();
        let (dir, outcome) = unpacked(&writer.finish().unwrap().into_inner(), &Limits::default());
        assert_eq!(outcome.unwrap(), ArchiveKind::Zip);
        assert!(dir.path().join("out/bp/blueprint.yaml").exists());
    }

    #[test]
    fn hostile_archives_are_refused_and_leave_nothing() {
        for name in ["../evil", "/etc/evil", "a/../../evil"] {
            let (dir, outcome) = unpacked(&tar_of(&[("fine", "x"), (name, "x")]), &Limits::default());
            assert!(matches!(outcome, Err(ArchiveError::Refused(..))), "{name}");
            assert!(!dir.path().join("out").exists() && !dir.path().join("evil").exists());
        }
        let small = Limits {
            entries: 10,
            bytes: 100,
        };
        assert!(matches!(
            unpacked(&tar_of(&[("a", &"x".repeat(101))]), &small).1,
            Err(ArchiveError::TooLarge(_))
        ));
        let many: Vec<(&str, &str)> = vec![("a", ""); 11];
        assert!(matches!(
            unpacked(&tar_of(&many), &small).1,
            Err(ArchiveError::TooLarge(_))
        ));
        assert!(matches!(unpacked(b"hello", &small).1, Err(ArchiveError::UnknownFormat)));
        assert!(unpacked(&[0x1f, 0x8b, 1, 2, 3], &small).1.is_err());
    }

    #[test]
    fn links_stay_inside() {
        let link = |name: &str, to: &str| {
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, to).unwrap();
            builder.into_inner().unwrap()
        };
        assert!(unpacked(&link("a/b", "../c"), &Limits::default()).1.is_ok());
        assert!(unpacked(&link("a", "/etc/passwd"), &Limits::default()).1.is_err());
        assert!(unpacked(&link("a/b", "../../c"), &Limits::default()).1.is_err());
    }
}
