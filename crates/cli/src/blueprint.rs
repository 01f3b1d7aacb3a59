//! `conclave blueprint`: the language without a manager.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use conclave_blueprint::deployment::{DeploymentRequest, Surroundings, deployment_plan};
use conclave_blueprint::topology::IdSource;
use conclave_blueprint::{Diagnostic, Diagnostics, Fault, FolderResolver, Map, Plan, Value, parse, validate};
use rand::Rng;
use serde_json::json;

#[derive(Subcommand)]
pub(crate) enum BlueprintCommand {
    /// Print the plan of a blueprint as JSON.
    Plan {
        /// Its main file.
        file: PathBuf,
        /// Values of inputs by name, as JSON; checked by making the deployment plan.
        #[arg(long)]
        inputs: Option<PathBuf>,
        /// A folder of what blueprints import by path; its resolver.json may tell what addresses stand for.
        #[arg(long = "resolve", value_name = "DIR")]
        resolve: Vec<PathBuf>,
        /// Print the deployment plan: inputs taken, functions evaluated, instances made.
        #[arg(long)]
        deployment: bool,
    },
    /// Draw the topology of a blueprint as SVG: containers, scaling groups, relationships.
    Show {
        /// Its main file.
        file: PathBuf,
        /// Where to write the drawing, instead of printing it.
        #[arg(long, short)]
        output: Option<PathBuf>,
        /// As of `plan`.
        #[arg(long = "resolve", value_name = "DIR")]
        resolve: Vec<PathBuf>,
    },
    /// Report every fault of blueprints.
    Validate {
        /// Their main files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// As of `plan`.
        #[arg(long = "resolve", value_name = "DIR")]
        resolve: Vec<PathBuf>,
    },
}

pub(crate) fn run(command: &BlueprintCommand) -> ExitCode {
    match command {
        BlueprintCommand::Plan {
            file,
            inputs,
            resolve,
            deployment,
        } => plan(file, inputs.as_deref(), resolve, *deployment),
        BlueprintCommand::Show { file, output, resolve } => match read(file, resolve) {
            Ok(plan) => draw(&plan, output.as_deref()),
            Err(diagnostics) => show_all(file, diagnostics),
        },
        BlueprintCommand::Validate { files, resolve } => {
            let mut code = ExitCode::SUCCESS;
            for file in files {
                let (name, resolver) = resolver(file, resolve);
                let found = validate(&name, &resolver);
                for warning in &found.warnings {
                    eprintln!("{}", rendered(file, "warning", warning));
                }
                match found.plan {
                    Ok(_) => println!("{}: valid", file.display()),
                    Err(diagnostics) => code = show_all(file, diagnostics),
                }
            }
            code
        }
    }
}

fn plan(file: &Path, inputs: Option<&Path>, resolve: &[PathBuf], deployment: bool) -> ExitCode {
    let plan = match read(file, resolve) {
        Ok(plan) => plan,
        Err(diagnostics) => {
            let fault = diagnostics.first();
            let error = json!({
                "error_code": fault.code, "error_class": fault.class.name(), "message": fault.message,
                "file": shown_file(file, fault), "line": fault.line, "column": fault.column, "path": fault.path,
            });
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if !deployment && inputs.is_none() {
        println!("{}", plan.to_json());
        return ExitCode::SUCCESS;
    }
    let values = match inputs.map_or_else(|| Ok(Map::new()), read_inputs) {
        Ok(values) => values,
        Err(error) => {
            let at = error.downcast_ref::<serde_json::Error>();
            let line = json!({
                "error_code": null, "error_class": "InputsError", "message": format!("{error:#}"), "file": inputs,
                "line": at.map_or(0, serde_json::Error::line), "column": at.map_or(0, serde_json::Error::column), "path": "",
            });
            eprintln!("{line}");
            return ExitCode::FAILURE;
        }
    };
    let request = DeploymentRequest {
        inputs: values,
        ..DeploymentRequest::default()
    };
    match deployment_plan(&plan, &request, &NoManager, &mut RandomSuffix) {
        Ok(made) => {
            println!("{}", if deployment { made.to_json() } else { plan.to_json() });
            ExitCode::SUCCESS
        }
        Err(fault) => {
            let error = json!({
                "error_code": fault.code, "error_class": fault.class.name(), "message": fault.message,
                "file": file, "line": 0, "column": 0, "path": fault.path,
            });
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn read_inputs(file: &Path) -> anyhow::Result<Map> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))?;
    match Value::from(json) {
        Value::Map(inputs) => Ok(inputs),
        _ => bail!("{} holds no mapping of values by input", file.display()),
    }
}

/// Without a manager every secret is taken to be there.
struct NoManager;

impl Surroundings for NoManager {
    fn has_secret(&self, _: &str) -> Result<Option<bool>, Fault> {
        Ok(Some(true))
    }
}

struct RandomSuffix;

impl IdSource for RandomSuffix {
    fn suffix(&mut self) -> String {
        const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut random = rand::rng();
        (0..6)
            .map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())]))
            .collect()
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

fn read(file: &Path, resolve: &[PathBuf]) -> Result<Plan, Diagnostics> {
    let (name, resolver) = resolver(file, resolve);
    parse(&name, &resolver)
}

/// The name of the main file, and what finds the others.
fn resolver(file: &Path, resolve: &[PathBuf]) -> (String, FolderResolver) {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let name = file
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let resolver = resolve.iter().fold(FolderResolver::new(folder), |resolver, folder| {
        resolver.with_resources(folder)
    });
    (name, resolver)
}

/// The file of a fault as it can be opened from here.
fn shown_file(main: &Path, fault: &Diagnostic) -> String {
    let beside = main.parent().unwrap_or(Path::new("")).join(&fault.file);
    if fault.file.is_empty() {
        main.display().to_string()
    } else if beside.exists() {
        beside.display().to_string()
    } else {
        fault.file.clone()
    }
}

/// All faults, in the order of the text.
fn show_all(main: &Path, diagnostics: Diagnostics) -> ExitCode {
    let mut faults = diagnostics.0;
    faults.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    for fault in &faults {
        let code = fault
            .code
            .map_or_else(|| fault.class.name().to_owned(), |code| code.to_string());
        eprintln!("{}", rendered(main, &format!("error[{code}]"), fault));
    }
    let count = faults.len();
    eprintln!(
        "{}: {count} {}",
        main.display(),
        if count == 1 { "fault" } else { "faults" }
    );
    ExitCode::FAILURE
}

/// The fault with its line, in the manner of compilers.
fn rendered(main: &Path, kind: &str, fault: &Diagnostic) -> String {
    let mut text = format!("{kind}: {}\n", fault.message);
    let margin = fault.line.to_string().len();
    let file = shown_file(main, fault);
    if fault.line == 0 {
        text += &format!("{:margin$}--> {file}\n", "");
    } else {
        text += &format!("{:margin$}--> {file}:{}:{}\n", "", fault.line, fault.column);
        text += &format!("{:margin$} |\n{} | {}\n", "", fault.line, fault.source_line);
        let before = (fault.column as usize).saturating_sub(1);
        let mark = "^".repeat(word_length(&fault.source_line, before));
        text += &format!("{:margin$} | {:before$}{mark}\n", "", "");
    }
    if !fault.path.is_empty() {
        text += &format!("{:margin$} = path: {}\n", "", fault.path);
    }
    if let Some(name) = &fault.suggestion {
        text += &format!("{:margin$} = help: did you mean '{name}'?\n", "");
    }
    text
}

/// How long the word is that begins at a column, at least 1.
fn word_length(line: &str, start: usize) -> usize {
    let rest = line.get(start..).unwrap_or_default();
    let end = rest.find([' ', ',', ']', '}', '#']).unwrap_or(rest.len());
    rest[..end].trim_end_matches(':').chars().count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_shown_like_a_compiler_does() {
        let folder = std::env::temp_dir().join(format!("conclave-validate-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("blueprint.yaml");
        let text = "tosca_definitions_version: cloudify_dsl_1_3\n\
                    imports: [cloudify/types/types.yaml]\n\
                    node_templates:\n  a: {type: cloudify.nodes.Rooot}\n  b:\n    type: cloudify.nodes.Root\n    \
                    propertys: {x: {get_inptu: y}}\n";
        std::fs::write(&file, text).unwrap();
        let diagnostics = read(&file, &[]).unwrap_err();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(diagnostics.0.len(), 2, "{diagnostics}");
        let shown: String = diagnostics
            .0
            .iter()
            .map(|fault| rendered(&file, "error", fault))
            .collect();
        assert!(
            shown.contains("4 |   a: {type: cloudify.nodes.Rooot}\n  |             ^^^^^^^^^^^^^^^^^^^^\n"),
            "{shown}"
        );
        assert!(shown.contains("help: did you mean 'cloudify.nodes.Root'?"), "{shown}");
        assert!(shown.contains("help: did you mean 'properties'?"), "{shown}");
    }
}
