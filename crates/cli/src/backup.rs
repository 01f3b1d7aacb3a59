//! `conclave backup`: backups of the database, and the way back to a point in time.
//!
//! Exit codes as for `conclave cluster`: 0 done, 1 not done (standard error says why and what to do), 2 wrong usage.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use conclave_backup::plan::Target;
use conclave_backup::{Contents, CreateOptions, Depot, Manifest, Programs, Pruned, RestoreOptions, Restored};
use conclave_catalog::database::Lsn;
use conclave_config::NodeConfig;
use conclave_consensus::StoppedNode;
use conclave_postgres::{REPLICATION_USER, StoppedDatabase, USER};
use conclave_runtime::account::Account;
use serde_json::{Value, json};

use crate::cluster::{Node, identity, refuse_running};

#[derive(Subcommand)]
pub(crate) enum BackupCommand {
    /// Back the database up: a base backup of the primary, from which the archived log leads to any later point.
    Create {
        #[command(flatten)]
        node: Node,
        /// Afterwards keep so many of the newest backups, and the log from the oldest of them on; remove the rest.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        keep: Option<u64>,
        /// Do not read the backup back from where it is kept.
        #[arg(long)]
        no_verify: bool,
        /// A folder for the copy, as large as the database; below the data directory when absent.
        #[arg(long)]
        spool: Option<PathBuf>,
    },
    /// List the backups, and up to where the log is archived.
    List(Node),
    /// Keep so many of the newest backups, and the log from the oldest of them on; remove the rest.
    Prune {
        #[command(flatten)]
        node: Node,
        /// How many.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        keep: u64,
        /// The system identifier of the database, where several are kept.
        #[arg(long)]
        database: Option<String>,
    },
    /// Bring the database back on this node, which must be stopped, as it was at a point in time. The node is a cluster of its own
    /// afterwards.
    Restore {
        #[command(flatten)]
        node: Node,
        /// Up to this time (RFC 3339, such as 2026-11-27T12:00:00Z), by the primary's clock; as late as possible when absent.
        #[arg(long, conflicts_with = "to_lsn")]
        to_time: Option<jiff::Timestamp>,
        /// Up to this position of the log, such as 16/B374D848.
        #[arg(long)]
        to_lsn: Option<Lsn>,
        /// Begin with this backup; with the latest before the point when absent.
        #[arg(long)]
        backup: Option<String>,
        /// Along this timeline; the newest that goes on from the backup when absent.
        #[arg(long)]
        timeline: Option<u32>,
        /// The system identifier of the database, where several are kept.
        #[arg(long)]
        database: Option<String>,
        /// Says that this node's present database is to be replaced. It stays aside, as `postgres/data.old`.
        #[arg(long)]
        replace_database: bool,
        /// Says that the other nodes are given up with what they hold, and will be wiped before they join again.
        #[arg(long)]
        give_up_other_nodes: bool,
    },
}

pub(crate) async fn run(command: BackupCommand) -> Result<ExitCode> {
    match command {
        BackupCommand::Create {
            node,
            keep,
            no_verify,
            spool,
        } => create(&node, keep, !no_verify, spool).await?,
        BackupCommand::List(node) => list(&node).await?,
        BackupCommand::Prune { node, keep, database } => prune(&node, keep, database).await?,
        BackupCommand::Restore {
            node,
            to_time,
            to_lsn,
            backup,
            timeline,
            database,
            replace_database,
            give_up_other_nodes,
        } => {
            let wish = Wish {
                target: match (to_time, to_lsn) {
                    (Some(time), _) => Target::Time(time),
                    (None, Some(lsn)) => Target::Lsn(lsn),
                    (None, None) => Target::Latest,
                },
                backup,
                timeline,
                database,
                replace_database,
                give_up_other_nodes,
            };
            restore(&node, wish).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(config: &NodeConfig) -> Result<Depot> {
    let Some(backup) = &config.backup else {
        bail!(
            "the configuration names no place for backups: set `backup.target` (docs/configuration.md), the same on all nodes"
        );
    };
    Ok(Depot::open(&backup.target, &backup.s3)?)
}

async fn create(node: &Node, keep: Option<u64>, verify: bool, spool: Option<PathBuf>) -> Result<()> {
    let config = node.load()?;
    let depot = open(&config)?;
    let identity = identity(&config)?;
    let bin = conclave_postgres::programs_dir(config.postgres_bin_dir.as_deref())?;
    let options = CreateOptions {
        programs: Programs {
            bin,
            account: Account::for_children(&config.accounts.postgres)?,
        },
        host: config.node.address.to_string(),
        port: config.ports.database_proxy,
        user: REPLICATION_USER.into(),
        password: conclave_postgres::replication_password(&identity),
        spool: spool.unwrap_or_else(|| config.data_dir.join("postgres/backup")),
        cluster_id: identity.cluster_id.clone(),
        node_name: config.node.name.clone(),
        verify,
    };
    let manifest = conclave_backup::create(&depot, &options).await?;
    let pruned = match keep {
        Some(keep) => Some(conclave_backup::prune(&depot, &manifest.system_id, usize::try_from(keep)?).await?),
        None => None,
    };
    let mut value = facts(&manifest);
    value["verified"] = json!(verify);
    value["pruned"] = json!(pruned);
    let removed = pruned
        .map(|pruned| format!("\n{}", removal(&pruned)))
        .unwrap_or_default();
    let text = format!(
        "backup {} is whole{}: {} bytes, {} where it is kept; {} to {} on timeline {}{removed}",
        manifest.id,
        if verify { " and was read back" } else { "" },
        manifest.bytes,
        manifest.stored_bytes(),
        manifest.start_lsn,
        manifest.end_lsn,
        manifest.timeline,
    );
    node.answer(&value, &text);
    Ok(())
}

fn facts(manifest: &Manifest) -> Value {
    json!({
        "id": manifest.id, "system_id": manifest.system_id, "cluster_id": manifest.cluster_id, "made_by": manifest.made_by,
        "postgres_version": manifest.postgres_version, "began_at": manifest.began_at, "ended_at": manifest.ended_at,
        "timeline": manifest.timeline, "start_lsn": manifest.start_lsn.to_string(), "end_lsn": manifest.end_lsn.to_string(),
        "bytes": manifest.bytes, "stored_bytes": manifest.stored_bytes(),
    })
}

async fn list(node: &Node) -> Result<()> {
    let config = node.load()?;
    let depot = open(&config)?;
    let mut databases = Vec::new();
    let mut lines = Vec::new();
    for system_id in depot.databases().await? {
        let contents = depot.contents(&system_id).await?;
        describe(&system_id, &contents, &mut lines);
        let backups = contents.inventory.backups.values().map(|manifest| {
            let mut value = facts(manifest);
            let verified = contents.verified.get(&manifest.id);
            let (timeline, until) = contents.inventory.covered(manifest);
            value["verified"] = json!(verified.is_some());
            value["verified_at"] = json!(verified.map(|verified| verified.at));
            value["restorable_until"] = json!({"timeline": timeline, "lsn": until.to_string()});
            value
        });
        databases.push(json!({
            "system_id": system_id,
            "backups": backups.collect::<Vec<_>>(),
            "incomplete": contents.incomplete,
            "archive": {
                "segments": contents.inventory.segments.len(), "bytes": contents.archive_bytes,
                "archived_at": contents.archived_at, "last_timeline": contents.inventory.last_timeline(),
            },
        }));
    }
    if databases.is_empty() {
        lines.push("nothing is kept yet: `conclave backup create` makes a backup".to_owned());
    }
    let target = config.backup.as_ref().map(|backup| backup.target.as_str());
    node.answer(&json!({"target": target, "databases": databases}), &lines.join("\n"));
    Ok(())
}

fn describe(system_id: &str, contents: &Contents, lines: &mut Vec<String>) {
    lines.push(format!(
        "database {system_id}: {} segments of log archived, {} bytes, the last at {}",
        contents.inventory.segments.len(),
        contents.archive_bytes,
        contents
            .archived_at
            .map_or_else(|| "no time yet".to_owned(), |at| at.to_string())
    ));
    lines.push(format!(
        "{:<20} {:<9} {:<14} {:<14} {:<20} {:>14} {:>14} {}",
        "BACKUP", "TIMELINE", "START", "END", "RESTORABLE UNTIL", "BYTES", "STORED", "VERIFIED"
    ));
    for manifest in contents.inventory.backups.values() {
        let (timeline, until) = contents.inventory.covered(manifest);
        let verified = contents.verified.get(&manifest.id);
        lines.push(format!(
            "{:<20} {:<9} {:<14} {:<14} {:<20} {:>14} {:>14} {}",
            manifest.id,
            manifest.timeline,
            manifest.start_lsn.to_string(),
            manifest.end_lsn.to_string(),
            format!("{until} (timeline {timeline})"),
            manifest.bytes,
            manifest.stored_bytes(),
            verified.map_or_else(|| "no".to_owned(), |verified| verified.at.to_string())
        ));
    }
    for id in &contents.incomplete {
        lines.push(format!("{id:<20} is not whole: it is being made, or was given up"));
    }
}

async fn prune(node: &Node, keep: u64, database: Option<String>) -> Result<()> {
    let depot = open(&node.load()?)?;
    let system_id = choose(&depot, database, None).await?;
    let pruned = conclave_backup::prune(&depot, &system_id, usize::try_from(keep)?).await?;
    node.answer(&serde_json::to_value(&pruned)?, &removal(&pruned));
    Ok(())
}

fn removal(pruned: &Pruned) -> String {
    format!(
        "removed {} backups, {} that were never whole, and {} segments of log",
        pruned.backups.len(),
        pruned.incomplete.len(),
        pruned.segments
    )
}

/// Which database is meant: the named one, the present one, or the only one.
async fn choose(depot: &Depot, named: Option<String>, present: Option<&str>) -> Result<String> {
    let kept = depot.databases().await?;
    if let Some(named) = named {
        if !kept.contains(&named) {
            bail!("nothing is kept of a database {named}; there are: {}", kept.join(", "));
        }
        return Ok(named);
    }
    if let Some(present) = present.filter(|present| kept.iter().any(|kept| kept == present)) {
        return Ok(present.to_owned());
    }
    match kept.as_slice() {
        [] => bail!("nothing is kept there yet: `conclave backup create` makes a backup"),
        [only] => Ok(only.clone()),
        several => bail!(
            "backups of several databases are kept there: say which by --database, one of {}",
            several.join(", ")
        ),
    }
}

struct Wish {
    target: Target,
    backup: Option<String>,
    timeline: Option<u32>,
    database: Option<String>,
    replace_database: bool,
    give_up_other_nodes: bool,
}

/// The whole restore happens beside what is there. Only when it is proven, and the database stopped cleanly, the replicated state and
/// the data directory change; a node on which only one of them has does not start.
async fn restore(node: &Node, wish: Wish) -> Result<()> {
    let config = node.load()?;
    refuse_running(&config).await?;
    let identity = identity(&config).context(
        "a database is restored on a node that has an identity: run `conclave cluster init`, or `conclave cluster restore` with a \
         backup of the replicated state, and do not start the node yet",
    )?;
    let depot = open(&config)?;
    let stopped = StoppedNode::open(&config.data_dir).await?;
    let others = stopped.others();
    if !others.is_empty() && !wish.give_up_other_nodes {
        bail!(
            "{} are in this cluster and may hold newer data. A restore makes this node a cluster of its own: they must be stopped, and \
             be wiped before they join again. If that is meant, say --give-up-other-nodes",
            others.join(", ")
        );
    }
    let account = Account::for_children(&config.accounts.postgres)?;
    let place = StoppedDatabase::open(&config.data_dir, config.postgres_bin_dir.as_deref(), account.clone())?;
    if place.has_data() && !wish.replace_database {
        bail!(
            "this node has a database. If it is to be replaced, say --replace-database; it stays aside, in {}",
            config.data_dir.join("postgres/data.old").display()
        );
    }
    let present = stopped.state().database();
    let system_id = choose(&depot, wish.database, present.system_id.as_deref()).await?;
    let above_timeline = present.last_timeline;
    let contents = depot.contents(&system_id).await?;
    let plan = contents
        .inventory
        .plan(wish.target, wish.backup.as_deref(), wish.timeline)?;
    let manifest = contents
        .inventory
        .backups
        .get(&plan.backup)
        .context("the planned backup is listed")?;
    let options = RestoreOptions {
        programs: Programs {
            bin: place.bin().to_owned(),
            account,
        },
        work: place.work_dir(),
        socket_dir: place.socket_dir().to_owned(),
        target: wish.target,
        passwords: vec![
            (USER.into(), conclave_postgres::password(&identity)),
            (
                REPLICATION_USER.into(),
                conclave_postgres::replication_password(&identity),
            ),
        ],
        above_timeline,
    };
    if !node.is_json() {
        eprintln!(
            "restoring backup {} and {} segments of log beside the present database …",
            plan.backup,
            plan.segments.len()
        );
    }
    let restored = conclave_backup::restore(&depot, manifest, &plan, &options).await?;
    place.begin_replacing()?;
    let peer_address = format!("{}:{}", config.node.address, config.ports.peer);
    let recovered = stopped
        .go_on_with_database(&peer_address, system_id.clone(), restored.timeline)
        .await?;
    place.replace(&restored.data)?;
    conclave_backup::clear(&options.work)?;
    let value = json!({
        "system_id": system_id, "backup": plan.backup, "node_id": recovered.node, "given_up": recovered.given_up,
        "timeline": restored.timeline, "reached_lsn": restored.reached.to_string(), "last_commit": restored.last_commit,
    });
    node.answer(&value, &report(&restored, &plan.backup, &recovered.given_up, node));
    Ok(())
}

fn report(restored: &Restored, backup: &str, given_up: &[String], node: &Node) -> String {
    let last = match restored.last_commit {
        Some(at) => format!("the last commit that it holds is of {at}"),
        None => "it holds no commit after the backup".to_owned(),
    };
    let others = if given_up.is_empty() {
        String::new()
    } else {
        format!(
            "\nthis node is a cluster of its own; {} must never start again with their old data: wipe them, and let them join anew",
            given_up.join(", ")
        )
    };
    format!(
        "the database is back from backup {backup}, up to {} on timeline {}; {last}{others}\n\
         start this node with `conclave manager --config {}`, look, and make a new backup",
        restored.reached,
        restored.timeline,
        node.config_file().display()
    )
}
