//! Reads and checks the tree.

use std::path::{Path, PathBuf};

use crate::NodeConfig;

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The text is no YAML, or a key or value does not fit.
    #[error("configuration {path}: {reason}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong and where.
        reason: String,
    },
}

/// Reads `path`.
///
/// # Errors
/// When it cannot be read or a key or value does not fit.
pub fn load(path: &Path) -> Result<NodeConfig, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    from_text(&text, path)
}

/// Reads `text`; `path` names it in errors.
///
/// # Errors
/// When a key or value does not fit.
pub fn from_text(text: &str, path: &Path) -> Result<NodeConfig, ConfigError> {
    let invalid = |reason: String| ConfigError::Invalid {
        path: path.to_owned(),
        reason,
    };
    let json = conclave_yaml::to_json(text).map_err(|error| invalid(error.to_string()))?;
    let config: NodeConfig = serde_json::from_value(json).map_err(|error| invalid(error.to_string()))?;
    check(&config).map_err(invalid)?;
    Ok(config)
}

fn check(config: &NodeConfig) -> Result<(), String> {
    let name = &config.node.name;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || name.len() > 63 || !name.chars().all(fits) {
        return Err(format!("node.name: {name:?} is not 1 to 63 letters, digits and dashes"));
    }
    if !config.data_dir.is_absolute() {
        return Err(format!(
            "data_dir: {} is not an absolute path",
            config.data_dir.display()
        ));
    }
    if config.workflows.concurrent_operations == 0 {
        return Err("workflows.concurrent_operations: must be at least 1".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Election, Ports};

    const MINIMAL: &str = "node: {name: node1, address: 127.0.0.11}\ndata_dir: /var/lib/conclave\n";

    #[test]
    fn what_is_not_said_has_the_standard_value() {
        let config = from_text(MINIMAL, Path::new("node.yaml")).unwrap();
        assert_eq!(config.ports, Ports::default());
        assert_eq!(config.election, Election::Lan);
        assert_eq!(config.workflows.task_retries, 60);
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = from_text(&format!("{MINIMAL}prots: {{rest: 443}}\n"), Path::new("node.yaml")).unwrap_err();
        assert!(
            error.to_string().contains("node.yaml") && error.to_string().contains("prots"),
            "{error}"
        );
    }

    #[test]
    fn values_that_cannot_work_are_refused() {
        for (from, to) in [("node1", "node_1"), ("/var/lib", "var/lib"), ("127.0.0.11", "here")] {
            assert!(
                from_text(&MINIMAL.replace(from, to), Path::new("node.yaml")).is_err(),
                "{to}"
            );
        }
    }
}
