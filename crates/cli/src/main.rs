//! `conclave`: the one program. It runs a node, and it is an operator's command line.
//!
//! Under the name `ctx` it is the command that operations' scripts talk to the manager with.

mod blueprint;
mod cluster;

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
            runtime()?.block_on(conclave_manager::run(config, &program))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Cluster(command) => {
            conclave_net::install_crypto_provider();
            runtime()?.block_on(cluster::run(command))
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
