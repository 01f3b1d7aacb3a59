//! `conclave blueprint`: the language without a manager.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use conclave_blueprint::{Diagnostic, Diagnostics, FolderResolver, Plan, parse};
use serde_json::json;

#[derive(Subcommand)]
pub(crate) enum BlueprintCommand {
    /// Print the plan of a blueprint as JSON.
    Plan {
        /// Its main file.
        file: PathBuf,
    },
    /// Draw the topology of a blueprint as SVG: containers, scaling groups, relationships.
    Show {
        /// Its main file.
        file: PathBuf,
        /// Where to write the drawing, instead of printing it.
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Report every fault of blueprints.
    Validate {
        /// Their main files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

pub(crate) fn run(command: &BlueprintCommand) -> ExitCode {
    match command {
        BlueprintCommand::Plan { file } => match read(file) {
            Ok(plan) => {
                println!("{}", plan.to_json());
                ExitCode::SUCCESS
            }
            Err(diagnostics) => {
                let fault = diagnostics.first();
                let error = json!({
                    "error_code": "invalid_blueprint_error", "code": fault.code, "message": fault.message, "file": fault.file,
                    "line": fault.line, "column": fault.column, "path": fault.path,
                });
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        BlueprintCommand::Show { file, output } => match read(file) {
            Ok(plan) => draw(&plan, output.as_deref()),
            Err(diagnostics) => {
                diagnostics.0.iter().for_each(|fault| show(file, fault));
                ExitCode::FAILURE
            }
        },
        BlueprintCommand::Validate { files } => {
            let mut code = ExitCode::SUCCESS;
            for file in files {
                match read(file) {
                    Ok(_) => println!("{}: valid", file.display()),
                    Err(diagnostics) => {
                        diagnostics.0.iter().for_each(|fault| show(file, fault));
                        code = ExitCode::FAILURE;
                    }
                }
            }
            code
        }
    }
}

fn draw(plan: &Plan, output: Option<&Path>) -> ExitCode {
    let drawing = conclave_drawing::svg(plan);
    let Some(output) = output else {
        print!("{drawing}");
        return ExitCode::SUCCESS;
    };
    match std::fs::write(output, drawing) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} cannot be written: {error}", output.display());
            ExitCode::FAILURE
        }
    }
}

fn read(file: &Path) -> Result<Plan, Diagnostics> {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let name = file
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    parse(&name, &FolderResolver::new(folder))
}

/// The fault with its line, in the manner of compilers.
fn show(main: &Path, fault: &Diagnostic) {
    let code = fault.code.map_or_else(String::new, |code| format!("[{code}]"));
    eprintln!("error{code}: {}", fault.message);
    eprintln!("  --> {}:{}:{}", fault.file, fault.line, fault.column);
    let path = main.parent().unwrap_or(Path::new(".")).join(&fault.file);
    let text = std::fs::read_to_string(path).unwrap_or_default();
    if let Some(line) = text
        .lines()
        .nth((fault.line as usize).saturating_sub(1))
        .filter(|_| fault.line > 0)
    {
        let margin = fault.line.to_string();
        eprintln!("{:1$} |", "", margin.len());
        eprintln!("{margin} | {line}");
        eprintln!("{:1$} | {2:>3$}", "", margin.len(), "^", fault.column as usize);
    }
    eprintln!();
}
