//! Where texts come from.

use std::path::{Component, Path, PathBuf};

/// The built-in types.
pub(crate) const TYPES: &str = include_str!("../types/types.yaml");
/// What blueprints import them as, besides the public addresses of the original's types.
const TYPES_LOCATION: &str = "cloudify/types/types.yaml";
const PUBLIC_TYPES: [&str; 2] = ["getcloudify.org/spec/cloudify/", "cloudify.co/spec/cloudify/"];

/// Brings the texts and answers for the resources that a blueprint names.
pub trait Resolver {
    /// The text at a location that a file `from` imports: the name by which it is known from then on, and the text.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(&self, location: &str, from: Option<&str>) -> Result<(String, String), String>;

    /// Whether the blueprint has a file of this path.
    fn has_file(&self, path: &str) -> bool;
}

/// Resolves within one folder, and the built-in types. Nothing outside of the folder is ever read.
pub struct FolderResolver {
    root: PathBuf,
}

impl FolderResolver {
    /// A resolver for the blueprint in `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The path below the root; none when it would lead out of it.
    fn inside(&self, path: &str) -> Option<PathBuf> {
        let plain = Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        let joined = self.root.join(path);
        // Links may lead out as well as dots.
        let real = joined.canonicalize().ok()?;
        (plain && real.starts_with(self.root.canonicalize().ok()?)).then_some(joined)
    }
}

impl Resolver for FolderResolver {
    fn read(&self, location: &str, from: Option<&str>) -> Result<(String, String), String> {
        let is_public_types =
            PUBLIC_TYPES.iter().any(|prefix| location.contains(prefix)) && location.ends_with("types.yaml");
        if location == TYPES_LOCATION || is_public_types {
            return Ok((TYPES_LOCATION.to_owned(), TYPES.to_owned()));
        }
        if location.contains("://") {
            return Err("only files of the blueprint and the built-in types can be imported".into());
        }
        let folder = from
            .and_then(|from| Path::new(from).parent())
            .map(|parent| parent.join(location));
        let candidates = [
            folder.map(|path| path.to_string_lossy().into_owned()),
            Some(location.to_owned()),
        ];
        for candidate in candidates.into_iter().flatten() {
            if let Some(path) = self.inside(&candidate) {
                let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
                return Ok((candidate, text));
            }
        }
        Err("there is no such file in the blueprint".into())
    }

    fn has_file(&self, path: &str) -> bool {
        self.inside(path).is_some_and(|path| path.is_file())
    }
}
