//! A resolver over folders, the one part of this crate that reads files.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use crate::builtin_types;
use crate::resolver::{Import, PluginRecord, PluginRule, Resolver, StoredPlugin};

/// Before the name of a built-in file.
const BUILTIN: &str = "builtin:";

/// Resolves within the folder of a blueprint, folders of resources, and the built-in types. Nothing outside of them is ever read.
///
/// Folders of resources hold whatever blueprints import by path. One that holds `resolver.json` may say more: `rules` (prefixes of
/// addresses and what replaces them, below the folder), `plugins` (a folder `<package>/<version>/*.yaml`) and `blueprints` (a folder
/// `<id>/blueprint.yaml`).
#[derive(Debug, Default)]
pub struct FolderResolver {
    root: PathBuf,
    resources: Vec<Resources>,
    own_types_first: bool,
    records: HashMap<String, PluginRecord>,
    rules: HashMap<String, PluginRule>,
}

/// A folder of resources.
#[derive(Debug, Default)]
struct Resources {
    folder: PathBuf,
    /// Prefixes of addresses, and paths below the folder.
    rules: Vec<(String, String)>,
    plugins: Option<PathBuf>,
    blueprints: Option<PathBuf>,
}

impl Resources {
    fn new(folder: &Path) -> Self {
        let settings = std::fs::read_to_string(folder.join("resolver.json")).unwrap_or_default();
        let settings: serde_json::Value = serde_json::from_str(&settings).unwrap_or_default();
        let pair = |rule: &serde_json::Value| {
            let (prefix, path) = rule.as_object()?.iter().next()?;
            Some((prefix.clone(), path.as_str()?.to_owned()))
        };
        let rules = settings["rules"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(pair)
            .collect();
        let below = |key: &str, usual: &str| {
            let path = folder.join(settings[key].as_str().unwrap_or(usual));
            path.is_dir().then_some(path)
        };
        Self {
            folder: folder.to_owned(),
            rules,
            plugins: below("plugins", "plugins"),
            blueprints: below("blueprints", "blueprints"),
        }
    }
}

impl FolderResolver {
    /// A resolver for the blueprint in `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            ..Self::default()
        }
    }

    /// With a folder of resources, behind those that are there already.
    #[must_use]
    pub fn with_resources(mut self, folder: &Path) -> Self {
        self.resources.push(Resources::new(folder));
        self
    }

    /// With the built-in types before files of the same name in folders of resources.
    #[must_use]
    pub fn with_own_types(mut self) -> Self {
        self.own_types_first = true;
        self
    }

    /// With what is stored of a plugin.
    #[must_use]
    pub fn with_plugin_record(mut self, package: &str, record: PluginRecord) -> Self {
        self.records.insert(package.to_owned(), record);
        self
    }

    /// With what is configured for the versions of a plugin.
    #[must_use]
    pub fn with_plugin_rule(mut self, package: &str, rule: PluginRule) -> Self {
        self.rules.insert(package.to_owned(), rule);
        self
    }

    /// A file below one of the folders. Dots and links must not lead out of all of them.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        let real = path.canonicalize().ok().filter(|path| path.is_file())?;
        let folders = std::iter::once(&self.root).chain(self.resources.iter().map(|resources| &resources.folder));
        folders
            .filter_map(|folder| folder.canonicalize().ok())
            .any(|folder| real.starts_with(folder))
            .then_some(real)
    }

    fn existing(&self, path: &Path) -> Option<String> {
        self.inside(path)?;
        path.to_str().map(str::to_owned)
    }

    fn resource(&self, path: &str) -> Option<String> {
        let built_in = || builtin_types::text(path).map(|_| format!("{BUILTIN}{path}"));
        let in_folders = || {
            self.resources
                .iter()
                .find_map(|resources| self.existing(&normal(&resources.folder.join(path))))
        };
        if self.own_types_first {
            built_in().or_else(in_folders)
        } else {
            in_folders().or_else(built_in)
        }
    }

    fn url(&self, url: &str) -> Option<String> {
        let mut mapped = self.resources.iter().flat_map(|resources| {
            let rules = resources.rules.iter();
            rules.filter_map(|(prefix, path)| {
                let rest = url.strip_prefix(prefix.as_str())?;
                Some(resources.folder.join(format!("{path}{rest}")))
            })
        });
        if let Some(found) = mapped.find_map(|path| self.existing(&path)) {
            return Some(found);
        }
        if let Some(path) = url.strip_prefix("file:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return self.existing(Path::new(path));
        }
        let has_rules = self.resources.iter().any(|resources| !resources.rules.is_empty());
        let name = builtin_types::name_of_url(url).filter(|_| !has_rules)?;
        Some(format!("{BUILTIN}{name}"))
    }
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                result.pop();
            }
            other => result.push(other),
        }
    }
    result
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    entries_in(folder).into_iter().filter(|path| path.is_dir()).collect()
}

fn entries_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Whether a name is one part of a path and nothing else.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none()
}

impl Resolver for FolderResolver {
    fn locate(&self, import: Import<'_>) -> Option<String> {
        match import {
            Import::Url(url) => self.url(url),
            Import::Working(_) => None,
            Import::Beside { from: "", path } => self.existing(&self.root.join(path)),
            Import::Beside { from, .. } if from.starts_with(BUILTIN) => None,
            Import::Beside { from, path } => {
                let folder = Path::new(from).parent()?;
                // As it is written: the same file by two ways is two files.
                self.existing(&folder.join(path))
            }
            Import::Resource(path) => self.resource(path),
        }
    }

    fn read(&self, location: &str) -> Result<String, String> {
        if let Some(name) = location.strip_prefix(BUILTIN) {
            return builtin_types::text(name)
                .map(str::to_owned)
                .ok_or_else(|| "there are no such types".into());
        }
        let path = self
            .inside(Path::new(location))
            .ok_or_else(|| "there is no such file in the blueprint or the resources".to_owned())?;
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        String::from_utf8(bytes).map_err(|_| "the file is not in UTF-8".into())
    }

    fn has_script(&self, main: &str, path: &str) -> bool {
        let folder = Path::new(main).parent().unwrap_or(Path::new(""));
        !path.is_empty() && !path.contains(['\n', '\0']) && self.inside(&folder.join(path)).is_some()
    }

    fn plugins(&self, package: &str) -> Vec<StoredPlugin> {
        if !is_plain(package) {
            return Vec::new();
        }
        let record = self.records.get(package);
        let folders = self
            .resources
            .iter()
            .filter_map(|resources| resources.plugins.as_ref())
            .flat_map(|plugins| folders_in(&plugins.join(package)));
        let stored = |folder: PathBuf| {
            let is_yaml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "yaml");
            StoredPlugin {
                version: folder
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                distribution: None,
                files: entries_in(&folder)
                    .iter()
                    .filter(|path| is_yaml(path))
                    .filter_map(|path| path.to_str().map(str::to_owned))
                    .collect(),
                record: record.cloned(),
            }
        };
        folders.map(stored).collect()
    }

    fn plugin_rule(&self, package: &str) -> PluginRule {
        self.rules.get(package).cloned().unwrap_or_default()
    }

    fn blueprint(&self, id: &str) -> Option<String> {
        if !is_plain(id) {
            return None;
        }
        self.resources
            .iter()
            .filter_map(|resources| resources.blueprints.as_ref())
            .find_map(|blueprints| self.existing(&blueprints.join(id).join("blueprint.yaml")))
    }

    fn display_name(&self, location: &str) -> String {
        if let Some(name) = location.strip_prefix(BUILTIN) {
            return name.to_owned();
        }
        let path = Path::new(location);
        path.strip_prefix(&self.root)
            .unwrap_or(path)
            .to_string_lossy()
            .into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("blueprint");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(folder.path().join("secret.yaml"), "a: 1").unwrap();
        std::fs::write(root.join("blueprint.yaml"), "a: 1").unwrap();
        std::fs::write(root.join("latin.yaml"), [0xff]).unwrap();
        let resolver = FolderResolver::new(&root);
        let main = resolver
            .locate(Import::Beside {
                from: "",
                path: "blueprint.yaml",
            })
            .unwrap();
        assert_eq!(resolver.read(&main).unwrap(), "a: 1");
        assert_eq!(resolver.display_name(&main), "blueprint.yaml");
        let beside = |path| resolver.locate(Import::Beside { from: &main, path });
        assert_eq!(beside("../secret.yaml"), None);
        assert!(
            resolver
                .read(&folder.path().join("secret.yaml").to_string_lossy())
                .is_err()
        );
        assert!(resolver.read(&beside("latin.yaml").unwrap()).is_err());
        assert!(!resolver.has_script(&main, "../secret.yaml"));
        assert_eq!(resolver.locate(Import::Url("file:/etc/passwd")), None);
        assert!(resolver.plugins("../..").is_empty());
    }
}
