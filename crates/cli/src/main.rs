//! `conclave`: the one program. It runs a node, and it is an operator's command line.
//!
//! Under the name `ctx` it is the command that operations' scripts talk to the manager with.

mod backup;
mod blueprint;
mod cluster;
mod consul;
mod files;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The high-availability clustered manager.
#[derive(Parser)]
#[command(name = "conclave", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run this node in the foreground.
    Manager {
        /// The node's configuration.
        #[arg(long)]
        config: PathBuf,
    },
    /// Found, join and look at a cluster.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Back the database up, and bring it back to a point in time.
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Look at the resource files, and change them.
    #[command(subcommand)]
    Files(files::FilesCommand),
    /// The Consul-compatible API of the cluster.
    #[command(subcommand)]
    Consul(consul::ConsulCommand),
    /// Check blueprints without a manager.
    #[command(subcommand)]
    Blueprint(blueprint::BlueprintCommand),
}

fn main() -> ExitCode {
    let name = std::env::args().next().map(PathBuf::from).unwrap_or_default();
    if name.file_name().is_some_and(|name| name == "ctx") {
        let code = conclave_operations::ctx_command::run(std::env::args().skip(1));
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("conclave: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Blueprint(command) => Ok(blueprint::run(&command)),
        Command::Manager { config } => {
            let config = conclave_config::load(&config)?;
            // What these say, our own lines say better.
            let filter = format!("{},openraft=error,lapin=off,deadpool.postgres=error", config.log);
            conclave_telemetry::init(&filter, conclave_telemetry::Format::Text)?;
            let program = std::env::current_exe()?;
            let ended = runtime()?.block_on(conclave_manager::run(config, &program))?;
            if ended == conclave_manager::Ended::Restart {
                // The process stays what it is to whoever supervises it; the program may be a newer one by now.
                use std::os::unix::process::CommandExt;
                let error = std::process::Command::new(&program)
                    .args(std::env::args_os().skip(1))
                    .exec();
                return Err(anyhow::Error::new(error).context(format!("start {} again", program.display())));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Cluster(command) => {
            conclave_net::install_crypto_provider();
            runtime()?.block_on(cluster::run(command))
        }
        Command::Backup(command) => {
            conclave_net::install_crypto_provider();
            runtime()?.block_on(backup::run(command))
        }
        Command::Files(command) => {
            conclave_net::install_crypto_provider();
            runtime()?.block_on(files::run(command))
        }
        Command::Consul(command) => {
            conclave_net::install_crypto_provider();
            runtime()?.block_on(consul::run(command))
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
