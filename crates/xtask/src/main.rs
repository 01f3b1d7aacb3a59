//! Chores of the project: `cargo xtask …`.

mod corpus;
mod tidy;
mod time;

use clap::{Parser, Subcommand};

/// Chores of the project.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the house rules that the compiler does not know.
    Tidy,
    /// Run the blueprint corpus.
    #[command(subcommand)]
    Corpus(corpus::Command),
    /// Time what the language does with one blueprint.
    Time(time::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Tidy => tidy::run(),
        Command::Corpus(command) => corpus::execute(command),
        Command::Time(options) => time::run(&options),
    }
}
