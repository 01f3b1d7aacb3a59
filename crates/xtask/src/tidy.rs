//! House rules as checks: the direction of dependencies, who may name what, and the size of files.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};

/// Longer files have grown a second job.
const LINES_MAX: usize = 800;

/// A package may use what is on a lower level. The levels are explained in docs/architecture.md.
const LEVELS: &[(&str, u8)] = &[
    ("base2histogram", 0),
    ("types", 0),
    ("proto", 0),
    ("runtime", 1),
    ("telemetry", 1),
    ("net", 2),
    ("yaml", 1),
    ("archive", 1),
    ("wal", 1),
    ("config", 2),
    ("catalog", 3),
    ("blueprint", 3),
    ("workflow", 3),
    ("consensus", 4),
    ("corpus", 4),
    ("drawing", 4),
    ("store", 4),
    ("operations", 4),
    ("postgres", 5),
    ("filesync", 5),
    ("backup", 6),
    ("gossip", 5),
    ("auth", 5),
    ("messaging", 5),
    ("testkit", 6),
    ("executor", 7),
    ("fileserver", 8),
    ("events", 8),
    ("consul-api", 8),
    ("rest", 8),
    ("manager", 9),
    ("localcluster", 9),
];
/// Programs and tests may use everything.
const TOP: &[&str] = &["cli", "chaos-tests", "xtask"];
/// The substrate knows nothing of blueprints.
const SUBSTRATE: &[&str] = &[
    "catalog",
    "wal",
    "consensus",
    "filesync",
    "gossip",
    "postgres",
    "backup",
    "consul-api",
];
const ABOVE_SUBSTRATE: &[&str] = &[
    "blueprint",
    "workflow",
    "store",
    "auth",
    "executor",
    "operations",
    "events",
    "fileserver",
    "rest",
];
/// Libraries that one package alone may name.
const SOLE_USERS: &[(&str, &[&str])] = &[
    ("openraft", &["consensus"]),
    ("lapin", &["messaging"]),
    ("amq-protocol-tcp", &["messaging"]),
    ("rustls", &["net"]),
    ("rcgen", &["net"]),
    ("deadpool-postgres", &["store"]),
    ("saphyr-parser", &["yaml"]),
    ("object_store", &["backup"]),
];
/// Pure packages name no runtime, no sockets, no files.
const PURE: &[&str] = &["catalog", "blueprint", "workflow", "yaml"];
const IMPURE_LIBRARIES: &[&str] = &["tokio", "tonic", "hyper", "nix"];

/// One TLS stack with one provider: two in one program make "which one is the default" a panic at run time.
const BANNED: &[&str] = &["aws-lc-sys", "openssl-sys", "native-tls"];

pub(crate) fn run() -> Result<()> {
    let metadata = MetadataCommand::new().no_deps().exec().context("run cargo metadata")?;
    let top = TOP.iter().map(|name| (*name, u8::MAX));
    let levels: BTreeMap<&str, u8> = LEVELS.iter().copied().chain(top).collect();
    let mut faults = Vec::new();
    for package in &metadata.packages {
        let name = short(&package.name);
        let Some(level) = levels.get(name) else {
            faults.push(format!("{name}: it has no level in crates/xtask/src/tidy.rs"));
            continue;
        };
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind == DependencyKind::Normal)
        {
            if let Some(fault) = judge(name, *level, &dependency.name, &levels) {
                faults.push(fault);
            }
        }
        let folder = package.manifest_path.parent().context("a manifest has a folder")?;
        check_files(folder.as_std_path(), &mut faults)?;
    }
    let locked = MetadataCommand::new()
        .exec()
        .context("run cargo metadata with dependencies")?;
    let is_banned = |name: &str| BANNED.contains(&name);
    let banned = locked.packages.iter().filter(|package| is_banned(&package.name));
    faults.extend(banned.map(|package| format!("{} is in the tree: `cargo tree -i {0}` shows why", package.name)));
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    if faults.is_empty() {
        Ok(())
    } else {
        bail!("{} house rules are broken", faults.len())
    }
}

fn short(package: &str) -> &str {
    package.strip_prefix("conclave-").unwrap_or(package)
}

fn judge(name: &str, level: u8, dependency: &str, levels: &BTreeMap<&str, u8>) -> Option<String> {
    let other = short(dependency);
    if dependency.starts_with("conclave-") {
        let below = levels.get(other).is_some_and(|other| *other < level);
        if !below {
            return Some(format!("{name} uses {other}, which is not on a lower level"));
        }
        if SUBSTRATE.contains(&name) && ABOVE_SUBSTRATE.contains(&other) {
            return Some(format!("{name} belongs to the substrate and uses {other}"));
        }
        return None;
    }
    if PURE.contains(&name) && IMPURE_LIBRARIES.contains(&dependency) {
        return Some(format!("{name} is pure and names {dependency}"));
    }
    let (_, users) = SOLE_USERS.iter().find(|(library, _)| *library == dependency)?;
    (!users.contains(&name)).then(|| format!("{name} names {dependency}, which is for {} alone", users.join(", ")))
}

fn check_files(folder: &Path, faults: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            check_files(&path, faults)?;
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let lines = text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{} has {lines} lines, more than {LINES_MAX}", path.display()));
        }
        if !text.starts_with("//!") {
            faults.push(format!(
                "{} does not say what it is for (`//!` on its first line)",
                path.display()
            ));
        }
    }
    Ok(())
}
