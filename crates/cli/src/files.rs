//! `conclave files`: the resource files, through the node on this machine.
//!
//! Paths are relative to the resource tree; bytes that are no text are written `\xNN`, a backslash `\\`. Exit codes are those of
//! `conclave cluster`; `status` also exits with 1 when the node's files are not whole, `scrub` when something could not be healed yet.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use conclave_filesync::{Expected, FilePath, FilesClient, Modified, Shown};
use conclave_runtime::clock;
use serde_json::json;

use crate::cluster::{Node, identity};

/// Of files that come from a pipe.
const MODE: u32 = 0o644;

#[derive(Subcommand)]
pub(crate) enum FilesCommand {
    /// Show how far this node's files are, and what is wrong with them.
    Status(Node),
    /// List a folder, or show one file.
    Ls {
        #[command(flatten)]
        node: Node,
        /// Relative to the resource tree; the root of it when absent.
        path: Option<String>,
    },
    /// Write a file's content to standard output.
    Cat {
        #[command(flatten)]
        node: Node,
        /// Which.
        path: String,
        /// One of those that `versions` lists, instead of the present one.
        #[arg(long)]
        version: Option<u64>,
    },
    /// Put a file: on all nodes, whole.
    Put {
        #[command(flatten)]
        node: Node,
        /// The file on this machine; `-` for standard input.
        file: PathBuf,
        /// Where to put it.
        path: String,
        /// Only if what is there is of this version; 0 when nothing may be there.
        #[arg(long)]
        expect: Option<u64>,
    },
    /// Remove a file, or a folder with all that is in it, from all nodes.
    Rm {
        #[command(flatten)]
        node: Node,
        /// Which.
        path: String,
        /// Only if what is there is of this version.
        #[arg(long)]
        expect: Option<u64>,
    },
    /// List the versions of a path: the previous ones, and the present one last.
    Versions {
        #[command(flatten)]
        node: Node,
        /// Which.
        path: String,
    },
    /// Make a previous version of a file the present one.
    Restore {
        #[command(flatten)]
        node: Node,
        /// Which.
        path: String,
        /// One of those that `versions` lists; the last previous one when absent.
        #[arg(long)]
        version: Option<u64>,
    },
    /// Read every chunk and every file of this node, and have what is damaged made anew.
    Scrub(Node),
}

fn connect(node: &Node) -> Result<FilesClient> {
    let config = node.load()?;
    let address = config.node.address.to_string();
    Ok(FilesClient::new(&identity(&config)?, &address, config.ports.files)?)
}

fn parse(text: &str) -> Result<FilePath> {
    FilePath::from_text(text).with_context(|| format!("{text:?} is no path of the resource tree"))
}

fn expected(version: Option<u64>) -> Expected {
    match version {
        None => Expected::Anything,
        Some(0) => Expected::Nothing,
        Some(version) => Expected::Version(version),
    }
}

pub(crate) async fn run(command: FilesCommand) -> Result<ExitCode> {
    match command {
        FilesCommand::Status(node) => return status(&node).await,
        FilesCommand::Ls { node, path } => {
            let path = path.map(|path| parse(&path)).transpose()?;
            let path = path.as_ref().map_or(b"".as_slice(), |path| path.as_bytes());
            let listed = connect(&node)?.list(path).await?;
            node.answer(&json!({ "entries": listed }), &table(&listed, false));
        }
        FilesCommand::Cat { node, path, version } => {
            if node.is_json() {
                bail!("a content is no JSON: leave out --json");
            }
            let mut out = std::io::stdout().lock();
            connect(&node)?.read(&parse(&path)?, version, &mut out).await?;
            out.flush().context("write to standard output")?;
        }
        FilesCommand::Put {
            node,
            file,
            path,
            expect,
        } => put(&node, file, &path, expected(expect)).await?,
        FilesCommand::Rm { node, path, expect } => {
            let version = connect(&node)?.remove(&parse(&path)?, expected(expect)).await?;
            changed(&node, &path, "removed", version);
        }
        FilesCommand::Versions { node, path } => {
            let versions = connect(&node)?.versions(&parse(&path)?).await?;
            node.answer(&json!({ "versions": versions }), &table(&versions, true));
        }
        FilesCommand::Restore { node, path, version } => {
            let version = connect(&node)?.restore(&parse(&path)?, version).await?;
            changed(&node, &path, "restored", version);
        }
        FilesCommand::Scrub(node) => return scrub(&node).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn changed(node: &Node, path: &str, what: &str, version: u64) {
    node.answer(
        &json!({ "path": path, "version": version }),
        &format!("{path}: {what}, version {version}"),
    );
}

async fn put(node: &Node, file: PathBuf, path: &str, expected: Expected) -> Result<()> {
    let (client, at) = (connect(node)?, parse(path)?);
    let version = if file.as_os_str() == "-" {
        let now = clock::now();
        let modified = Modified {
            seconds: now.as_second(),
            nanoseconds: u32::try_from(now.subsec_nanosecond()).unwrap_or_default(),
        };
        client
            .put(&at, std::io::stdin(), None, MODE, modified, expected)
            .await?
    } else {
        let source = std::fs::File::open(&file).with_context(|| format!("open {}", file.display()))?;
        let metadata = source
            .metadata()
            .with_context(|| format!("look at {}", file.display()))?;
        if !metadata.is_file() {
            bail!("{} is no file: put the files of a folder one by one", file.display());
        }
        let modified = Modified {
            seconds: metadata.mtime(),
            nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or_default(),
        };
        client
            .put(
                &at,
                source,
                Some(metadata.len()),
                metadata.mode() & 0o777,
                modified,
                expected,
            )
            .await?
    };
    changed(node, path, "put", version);
    Ok(())
}

async fn status(node: &Node) -> Result<ExitCode> {
    let status = connect(node)?.status().await?;
    let mut lines = vec![
        format!(
            "shown up to version   {} (of {} that is known)",
            status.applied, status.seen
        ),
        format!("paths to be made      {}", status.missing),
        format!(
            "chunks to be fetched  {} ({} bytes)",
            status.missing_chunks, status.missing_bytes
        ),
        format!("edits to be taken up  {}", status.edits),
        format!("edits are noticed by  {}", status.watching),
        format!("chunks stored         {} ({} bytes)", status.chunks, status.chunk_bytes),
        format!(
            "since the start       {} bytes received, {} given, {} damaged, {} set aside",
            status.bytes_received, status.bytes_sent, status.damaged, status.quarantined
        ),
    ];
    if status.wrong_from_peers > 0 {
        lines.push(format!(
            "! {} chunks with wrong bytes came from peers",
            status.wrong_from_peers
        ));
    }
    let causes = [&status.error, &status.watch_failure];
    lines.extend(causes.into_iter().flatten().map(|cause| format!("! {cause}")));
    node.answer(&serde_json::to_value(&status)?, &lines.join("\n"));
    let is_whole = status.error.is_none() && status.missing == 0 && status.missing_chunks == 0;
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn scrub(node: &Node) -> Result<ExitCode> {
    let report = connect(node)?.scrub().await?;
    let mut lines = vec![
        format!(
            "{} chunks read, {} of them damaged or missing",
            report.chunks, report.damaged_chunks
        ),
        format!(
            "{} files read, {} of them not as they should be",
            report.files,
            report.damaged_files.len()
        ),
    ];
    lines.extend(report.damaged_files.iter().map(|path| format!("  {path}")));
    lines.push(if report.healed {
        "everything is whole".to_owned()
    } else {
        "! something is not whole yet: `conclave files status` says what".to_owned()
    });
    node.answer(&serde_json::to_value(&report)?, &lines.join("\n"));
    Ok(if report.healed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn table(shown: &[Shown], versions: bool) -> String {
    let mut lines = vec![format!(
        "{:<10} {:>10} {:<5} {:>12} {:<16} {}",
        "KIND",
        "VERSION",
        "MODE",
        "SIZE",
        "CONTENT",
        if versions { "REPLACED BY" } else { "PATH" }
    )];
    lines.extend(shown.iter().map(|one| {
        let size = one.size.map_or_else(|| "-".to_owned(), |size| size.to_string());
        let content = one.content.map(|content| content.to_string());
        let content = content.map_or_else(|| "-".to_owned(), |content| content[..16].to_owned());
        let last = match (versions, one.until, &one.target) {
            (true, Some(until), _) => until.to_string(),
            (true, None, _) => "(present)".to_owned(),
            (false, _, Some(target)) => format!("{} -> {target}", one.path),
            (false, _, None) => one.path.to_string(),
        };
        let mode = one.mode.as_deref().unwrap_or("-");
        format!(
            "{:<10} {:>10} {mode:<5} {size:>12} {content:<16} {last}",
            one.kind, one.version
        )
    }));
    lines.join("\n")
}
