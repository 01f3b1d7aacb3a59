//! The leader's node dies: its manager and its PostgreSQL, at once and without a word, while a workflow runs.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use conclave_chaos_tests::{TestCluster, call, install, upload, wait_for};
use conclave_localcluster::RestClient;
use conclave_runtime::Tasks;
use serde_json::Value;

const STEPS: usize = 8;

/// A chain of nodes; each step writes a line when it begins and one when it ends.
fn chain(journal: &Path) -> BTreeMap<&'static str, String> {
    let mut text = String::from(
        "tosca_definitions_version: cloudify_dsl_1_3\nimports: [cloudify/types/types.yaml]\nnode_templates:\n",
    );
    for step in 0..STEPS {
        text += &format!(
            "  step{step}:\n    type: cloudify.nodes.Root\n    interfaces:\n      cloudify.interfaces.lifecycle:\n        create:\n          implementation: step.sh\n          executor: central_deployment_agent\n          inputs: {{name: step{step}, journal: {}}}\n",
            journal.display()
        );
        if step > 0 {
            text += &format!(
                "    relationships:\n      - {{type: cloudify.relationships.depends_on, target: step{}}}\n",
                step - 1
            );
        }
    }
    let script = "#!/bin/bash\nset -e\necho \"begin $name\" >> \"$journal\"\nsleep 0.6\nctx instance runtime-properties done \"$name\"\necho \"end $name\" >> \"$journal\"\n";
    BTreeMap::from([("blueprint.yaml", text), ("step.sh", script.to_owned())])
}

/// Creates tenants until told to stop: the names that were acknowledged, and the longest time without one.
async fn write_all_the_time(client: RestClient, stop: Arc<AtomicBool>) -> (Vec<String>, Duration) {
    let (mut acknowledged, mut gap, mut last) = (Vec::new(), Duration::ZERO, Instant::now());
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("t{number}");
        if call(&client, "POST", &format!("/api/v3.1/tenants/{name}"), Value::Null)
            .await
            .is_ok()
        {
            acknowledged.push(name);
            gap = gap.max(last.elapsed());
            last = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (acknowledged, gap)
}

async fn status_of(client: &RestClient, execution: &str) -> Option<String> {
    let path = format!("/api/v3.1/executions/{execution}");
    let object = call(client, "GET", &path, Value::Null).await.ok()?;
    object["status"].as_str().map(str::to_owned)
}

fn count(journal: &Path, line: &str) -> usize {
    std::fs::read_to_string(journal)
        .unwrap_or_default()
        .lines()
        .filter(|found| *found == line)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_survives_the_loss_of_its_leader() {
    let test = TestCluster::three().await;
    let long = Duration::from_secs(60);
    let journal = test.dir().join("journal");
    let leader = test.leader(1).await.unwrap();
    // The node that takes the upload is the one that is lost.
    upload(&test.client(leader), "chain", &chain(&journal)).await.unwrap();
    let survivor = (1..=3).find(|number| *number != leader).unwrap();
    let execution = install(&test.client(survivor), "chain", "chain").await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let tasks = Tasks::new("test");
    let writer = tasks.spawn("writer", write_all_the_time(test.client(survivor), Arc::clone(&stop)));
    wait_for("the second step", long, || async {
        (count(&journal, "begin step1") > 0).then_some(())
    })
    .await;

    test.cluster.kill(leader);
    let client = test.client(survivor);
    let ended = || async {
        status_of(&client, &execution)
            .await
            .filter(|status| status == "terminated" || status == "failed")
    };
    let status = wait_for("the end of the install", long, ended).await;
    stop.store(true, Ordering::Relaxed);
    let (acknowledged, gap) = writer.join().await.unwrap();
    eprintln!("longest time without an acknowledged write: {} ms", gap.as_millis());
    if status != "terminated" {
        test.fail(&format!("the install ended {status}"));
    }

    for step in 0..STEPS {
        let (begun, done) = (
            count(&journal, &format!("begin step{step}")),
            count(&journal, &format!("end step{step}")),
        );
        assert!(
            done == 1 && (1..=2).contains(&begun),
            "step{step} began {begun} times and ended {done} times"
        );
    }
    let again: usize = (0..STEPS)
        .map(|step| count(&journal, &format!("begin step{step}")) - 1)
        .sum();
    assert!(
        again <= 1,
        "only what was under way may be run again, and {again} steps were"
    );

    let tenants = call(&client, "GET", "/api/v3.1/tenants?_get_all_results=true", Value::Null)
        .await
        .unwrap();
    let stored: Vec<&str> = tenants["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|tenant| tenant["name"].as_str())
        .collect();
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|name| !stored.contains(&name.as_str()))
        .collect();
    assert!(
        !acknowledged.is_empty() && lost.is_empty(),
        "acknowledged and lost: {lost:?}"
    );

    let file = "blueprints/default_tenant/chain/step.sh";
    for number in (1..=3).filter(|number| *number != leader) {
        let on_disk = test.cluster.node(number).data_dir.join("resources").join(file);
        assert!(on_disk.exists(), "{} is on every node", on_disk.display());
        let answer = test.client(number).get(&format!("/resources/{file}")).await.unwrap();
        assert_eq!(answer.status, 200, "the file server of node{number}");
    }

    let shown = client.get_status("/v1/cluster/status").await.unwrap();
    let dead = shown["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|node| node["name"] == format!("node{leader}"))
        .unwrap()
        .clone();
    assert_eq!(
        (dead["status"].as_str(), shown["status"].as_str()),
        (Some("unavailable"), Some("degraded"))
    );

    test.cluster.start(leader).await.unwrap();
    if let Err(error) = test.cluster.wait_healthy(survivor, long).await {
        test.fail(&error);
    }
}
