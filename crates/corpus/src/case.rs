//! Cases as they lie in the folder.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Why the corpus cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// A file or folder cannot be read.
    #[error("{0} cannot be read")]
    Read(PathBuf, #[source] std::io::Error),
    /// A file is no JSON.
    #[error("{0} is no JSON")]
    Json(PathBuf, #[source] serde_json::Error),
    /// A digest that no fragment has.
    #[error("there is no fragment {0}")]
    Fragment(String),
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Corpus {
    root: PathBuf,
}

impl Corpus {
    /// The corpus in that folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// What the cases import.
    pub fn resources(&self) -> PathBuf {
        self.root.join("resources")
    }

    /// The cases of all kinds, by kind and name.
    ///
    /// # Errors
    /// When a folder cannot be read. A kind that is not there has no cases.
    pub fn cases(&self) -> Result<Vec<Case>, CorpusError> {
        let mut cases = Vec::new();
        for kind in ["blueprints", "snippets", "mutants"] {
            let folder = self.root.join(kind);
            if !folder.is_dir() {
                continue;
            }
            let read = |error| CorpusError::Read(folder.clone(), error);
            for entry in fs::read_dir(&folder).map_err(read)? {
                let path = entry.map_err(read)?.path();
                if path.join("case.json").is_file() {
                    cases.push(Case::new(path, Some(kind))?);
                }
            }
        }
        cases.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(cases)
    }

    /// The cases somewhere below a folder, by the names of their folders.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn cases_below(folder: &Path) -> Result<Vec<Case>, CorpusError> {
        let mut cases = Vec::new();
        let mut waiting = vec![folder.to_owned()];
        while let Some(folder) = waiting.pop() {
            if folder.join("case.json").is_file() {
                cases.push(Case::new(folder, None)?);
                continue;
            }
            let read = |error| CorpusError::Read(folder.clone(), error);
            for entry in fs::read_dir(&folder).map_err(read)? {
                let entry = entry.map_err(read)?;
                // Links are not followed: they may lead round in a circle.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    waiting.push(entry.path());
                }
            }
        }
        cases.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(cases)
    }

    /// Puts fragments in where `expected` names them.
    ///
    /// # Errors
    /// When one is not there.
    pub fn with_fragments(&self, mut expected: Value) -> Result<Value, CorpusError> {
        for section in expected
            .as_object_mut()
            .into_iter()
            .flat_map(serde_json::Map::values_mut)
        {
            let Some(digest) = section.get("$fragment").and_then(Value::as_str) else {
                continue;
            };
            let name = digest
                .get(..16)
                .ok_or_else(|| CorpusError::Fragment(digest.to_owned()))?;
            *section = read_json(&self.root.join("fragments").join(format!("{name}.json")))?;
        }
        Ok(expected)
    }
}

/// A case.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its folder's name, with its kind in front where it is one of a corpus.
    pub name: String,
    /// Where it lies.
    pub folder: PathBuf,
    /// `case.json`.
    pub description: Value,
}

impl Case {
    fn new(folder: PathBuf, kind: Option<&str>) -> Result<Self, CorpusError> {
        let name = folder
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let description = read_json(&folder.join("case.json"))?;
        let name = kind.map_or_else(|| name.clone(), |kind| format!("{kind}/{name}"));
        Ok(Self {
            name,
            folder,
            description,
        })
    }

    /// The main file's name.
    pub fn main(&self) -> &str {
        self.description["main"].as_str().unwrap_or("blueprint.yaml")
    }

    /// Whether operations are written short in the expected plan.
    pub fn is_compact(&self) -> bool {
        self.description["compact"] == true
    }

    /// Whether the version of the language decides what may be used.
    pub fn validates_version(&self) -> bool {
        self.description["options"]["validate_version"] != false
    }

    /// One of its files, if it is there.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn file(&self, name: &str) -> Result<Option<Value>, CorpusError> {
        let path = self.folder.join(name);
        if path.is_file() {
            read_json(&path).map(Some)
        } else {
            Ok(None)
        }
    }
}

fn read_json(path: &Path) -> Result<Value, CorpusError> {
    let text = fs::read_to_string(path).map_err(|error| CorpusError::Read(path.to_owned(), error))?;
    serde_json::from_str(&text).map_err(|error| CorpusError::Json(path.to_owned(), error))
}
