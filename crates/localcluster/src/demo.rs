//! The first thing that a user sees: a blueprint that is uploaded, deployed and installed.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use conclave_archive::pack_tar_gz;
use serde_json::{Value, json};

use crate::cluster::{Progress, UpError};
use crate::rest::{RestClient, RestError};

const NAME: &str = "hello-world";
const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Demo {
    /// The deployment's outputs.
    pub outputs: Value,
    /// The status of the last install.
    pub status: String,
}

/// Uploads the blueprint in `folder`, deploys and installs it, and shows the events as they happen. What is there already is
/// left as it is.
///
/// # Errors
/// When a call fails, or the install does not end in time.
pub async fn run_demo(client: &RestClient, folder: &Path, progress: &dyn Progress) -> Result<Demo, UpError> {
    let system = |source| UpError::System {
        what: format!("pack {}", folder.display()),
        source,
    };
    let archive = pack_tar_gz(folder, NAME).map_err(system)?;
    let known = |outcome: Result<Value, RestError>| match outcome {
        Err(RestError::Refused { status: 409, .. }) => Ok(false),
        Err(error) => Err(error),
        Ok(_) => Ok(true),
    };
    let upload = client
        .expect("PUT", &format!("/api/v3.1/blueprints/{NAME}"), archive.into())
        .await;
    progress.step(if known(upload)? {
        "blueprint uploaded"
    } else {
        "the blueprint is there already"
    });
    let body = body(&json!({"blueprint_id": NAME, "inputs": {}}));
    let created = client
        .expect("PUT", &format!("/api/v3.1/deployments/{NAME}"), body)
        .await;
    let fresh = known(created)?;
    progress.step(if fresh {
        "deployment created"
    } else {
        "the deployment is there already"
    });
    let status = if fresh {
        install(client, progress).await?
    } else {
        "there already".to_owned()
    };
    let outputs = client
        .expect("GET", &format!("/api/v3.1/deployments/{NAME}/outputs"), Bytes::new())
        .await?;
    Ok(Demo {
        outputs: outputs["outputs"].clone(),
        status,
    })
}

fn body(value: &Value) -> Bytes {
    value.to_string().into()
}

async fn install(client: &RestClient, progress: &dyn Progress) -> Result<String, UpError> {
    let started = body(&json!({"deployment_id": NAME, "workflow_id": "install"}));
    let execution = client.expect("POST", "/api/v3.1/executions", started).await?;
    let id = execution["id"].as_str().unwrap_or_default().to_owned();
    progress.step("install started");
    let end = tokio::time::Instant::now() + DEADLINE;
    let mut seen = 0;
    loop {
        let execution = client
            .expect("GET", &format!("/api/v3.1/executions/{id}"), Bytes::new())
            .await?;
        let status = execution["status"].as_str().unwrap_or_default().to_owned();
        // Read after the status: the last events are stored before it ends.
        seen += show_events(client, &id, seen, progress).await?;
        if matches!(status.as_str(), "terminated" | "failed" | "cancelled") {
            return Ok(status);
        }
        if tokio::time::Instant::now() >= end {
            let what = format!("the end of install {id} (last seen: {status})");
            return Err(UpError::Deadline {
                what,
                deadline: DEADLINE,
                log: "manager.log".into(),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn show_events(client: &RestClient, id: &str, seen: usize, progress: &dyn Progress) -> Result<usize, UpError> {
    let path = format!("/api/v3.1/events?execution_id={id}&_offset={seen}&_sort=_storage_id");
    let page = client.expect("GET", &path, Bytes::new()).await?;
    let items = page["items"].as_array().cloned().unwrap_or_default();
    for event in &items {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let place = [text("node_instance_id"), text("operation")];
        let place = place
            .iter()
            .filter(|part| !part.is_empty())
            .cloned()
            .collect::<Vec<_>>()
            .join(".");
        progress.step(&format!(
            "  {} [{place}] {}",
            text("reported_timestamp"),
            text("message")
        ));
    }
    Ok(items.len())
}
