//! Where texts come from: what a blueprint may ask its surroundings for while it is read (spec/dsl.md, section 5).

use crate::Value;

/// What an import names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Import<'a> {
    /// An address: `http:`, `https:`, `ftp:` or `file:`.
    Url(&'a str),
    /// A path in the working directory of whoever reads the blueprint.
    Working(&'a str),
    /// A path beside the file that imports it.
    Beside {
        /// The location of the importing file.
        from: &'a str,
        /// The path as written.
        path: &'a str,
    },
    /// A path below the resources of the manager.
    Resource(&'a str),
}

/// A stored plugin that an import may mean.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoredPlugin {
    /// The version of its package.
    pub version: String,
    /// The distribution it was built for.
    pub distribution: Option<String>,
    /// Locations of its `*.yaml` files.
    pub files: Vec<String>,
    /// What is stored with it, instead of what its file says.
    pub record: Option<PluginRecord>,
}

/// What the manager has stored with a plugin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PluginRecord {
    /// Values by key, for deployments.
    pub labels: Value,
    /// Values by key, for blueprints.
    pub blueprint_labels: Value,
    /// Any values by name.
    pub resource_tags: Value,
}

/// What the manager is told about the versions of a plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PluginRule {
    /// Taken instead of the version that the import asks for.
    pub mapping: Option<String>,
    /// Asked for besides.
    pub constraint: Option<String>,
}

/// Brings the texts and answers for the resources that a blueprint names.
///
/// Locations are the resolver's own: the language compares them, and hands them back. The same text under two locations is two
/// files.
pub trait Resolver {
    /// Where an import leads; none when there is nothing.
    fn locate(&self, import: Import<'_>) -> Option<String>;

    /// The text at a location.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(&self, location: &str) -> Result<String, String>;

    /// Whether there is a script of this path beside the main file at `main`.
    fn has_script(&self, main: &str, path: &str) -> bool;

    /// The stored plugins of a package.
    fn plugins(&self, _package: &str) -> Vec<StoredPlugin> {
        Vec::new()
    }

    /// What is configured for a package.
    fn plugin_rule(&self, _package: &str) -> PluginRule {
        PluginRule::default()
    }

    /// The location of the main file of a stored blueprint.
    fn blueprint(&self, _id: &str) -> Option<String> {
        None
    }

    /// The name of a location for people.
    fn display_name(&self, location: &str) -> String {
        location.to_owned()
    }
}
