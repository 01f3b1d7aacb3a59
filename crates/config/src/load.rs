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
    if let Some(external) = &config.external_database {
        if config.backup.is_some() {
            return Err("backup: an external_database is backed up by whoever looks after it".into());
        }
        if !external.password_file.is_absolute() {
            return Err("external_database.password_file: must be an absolute path".into());
        }
    }
    if let Some(backup) = &config.backup {
        check_backup(backup)?;
    }
    if config.workflows.concurrent_operations == 0 {
        return Err("workflows.concurrent_operations: must be at least 1".into());
    }
    Ok(())
}

fn check_backup(backup: &crate::BackupSection) -> Result<(), String> {
    let target = &backup.target;
    if backup.segment_seconds == 0 {
        return Err("backup.segment_seconds: must be at least 1".into());
    }
    match target.strip_prefix("s3://") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            Err(format!("backup.target: {target:?} names no bucket"))
        }
        Some(_) if backup.s3.access_key_id.is_empty() => {
            Err("backup.s3.access_key_id: is needed for a target in a bucket".into())
        }
        Some(_) if !backup.s3.secret_access_key_file.is_absolute() => {
            Err("backup.s3.secret_access_key_file: must be an absolute path".into())
        }
        None if !target.starts_with('/') => Err(format!(
            "backup.target: {target:?} is neither an absolute path nor s3://bucket/prefix"
        )),
        _ => Ok(()),
    }
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
    fn a_place_for_backups_is_a_path_or_a_bucket() {
        let with = |backup: &str| from_text(&format!("{MINIMAL}backup: {backup}\n"), Path::new("node.yaml"));
        assert_eq!(with("{target: /backups}").unwrap().backup.unwrap().segment_seconds, 60);
        let key = "s3: {access_key_id: a, secret_access_key_file: /secret}";
        assert!(with(&format!("{{target: 's3://bucket/x', {key}}}")).is_ok());
        for wrong in [
            "{target: backups}",
            "{target: 's3://bucket'}",
            "{target: /b, segment_seconds: 0}",
        ] {
            assert!(with(wrong).is_err(), "{wrong}");
        }
        assert!(with(&format!("{{target: 's3://', {key}}}")).is_err());
    }

    #[test]
    fn an_external_database_is_not_ours_to_back_up() {
        let external = "external_database: {host: db, user: m, name: m, password_file: /secret}\n";
        let text = format!("{MINIMAL}{external}");
        let config = from_text(&text, Path::new("node.yaml")).unwrap();
        assert_eq!(config.external_database.unwrap().port, 5432);
        assert!(from_text(&format!("{text}backup: {{target: /b}}\n"), Path::new("node.yaml")).is_err());
        assert!(from_text(&text.replace("/secret", "secret"), Path::new("node.yaml")).is_err());
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
