//! Times what the language does with one blueprint, for comparisons with other implementations of it.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use conclave_blueprint::deployment::{DeploymentRequest, Surroundings, deployment_plan};
use conclave_blueprint::topology::IdSource;
use conclave_blueprint::{Fault, FolderResolver, Map, Value, parse};
use serde_json::json;

/// What to time.
#[derive(clap::Args)]
pub struct Options {
    /// The main file.
    file: PathBuf,
    /// The folder of resources that it imports.
    #[arg(long)]
    resources: PathBuf,
    /// Whether to make a deployment plan of it as well.
    #[arg(long)]
    deploy: bool,
    /// The deployment's inputs: a file with a mapping as JSON.
    #[arg(long)]
    inputs: Option<PathBuf>,
}

/// Every secret exists: what they are is not looked at.
struct AllSecrets;

impl Surroundings for AllSecrets {
    fn has_secret(&self, _: &str) -> Result<Option<bool>, Fault> {
        Ok(Some(true))
    }
}

struct Counting(u32);

impl IdSource for Counting {
    fn suffix(&mut self) -> String {
        self.0 += 1;
        format!("{:06}", self.0)
    }
}

/// Prints one line of JSON: `nodes`, `instances`, seconds of each part, and the peak of resident memory.
///
/// # Errors
/// When the blueprint is invalid or no deployment can be made of it.
pub fn run(options: &Options) -> Result<()> {
    let folder = options.file.parent().context("the file lies in no folder")?;
    let name = options
        .file
        .file_name()
        .context("the file has no name")?
        .to_string_lossy();
    let inputs = match &options.inputs {
        Some(file) => serde_json::from_str(&std::fs::read_to_string(file)?)?,
        None => Value::from(Map::new()),
    };
    let inputs = inputs.as_map().cloned().context("the inputs are no mapping")?;
    let start = Instant::now();
    let resolver = FolderResolver::new(folder).with_resources(&options.resources);
    let plan = parse(&name, &resolver).map_err(|diagnostics| anyhow!("{diagnostics}"))?;
    let parse_s = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let instances = if options.deploy {
        let request = DeploymentRequest {
            inputs,
            ..DeploymentRequest::default()
        };
        let deployed = deployment_plan(&plan, &request, &AllSecrets, &mut Counting(0))?;
        Some(deployed.instances.len())
    } else {
        None
    };
    let deploy_s = options.deploy.then(|| start.elapsed().as_secs_f64());
    let result = json!({
        "nodes": plan.nodes.len(), "instances": instances, "parse_s": parse_s, "deploy_s": deploy_s,
        "peak_mib": peak_mib()?,
    });
    println!("{result}");
    Ok(())
}

/// The most memory that this process has had resident.
fn peak_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("the process' status cannot be read")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("there is no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
