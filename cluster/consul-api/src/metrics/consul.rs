//! The figures that Consul's dashboards know, under their names (spec/consul-api.md, section 6).

use conclave_consensus::{Consensus, Role, Spent};
use serde_json::{Value, json};

use super::page::Page;
use super::{Metrics, load, process, resident_bytes};

/// Figures under Consul's names. Those of times are in milliseconds.
struct Figures<'a> {
    gauges: Vec<(&'static str, f64)>,
    counters: Vec<(&'static str, u64)>,
    spent: [(&'static str, &'a Spent); 8],
}

impl Metrics {
    fn figures<'a>(&'a self, consensus: &'a Consensus, sessions: usize) -> Figures<'a> {
        let (facts, state) = (consensus.facts(), consensus.state());
        let nodes = state.borrow().nodes().clone();
        let alive = nodes.values().filter(|node| node.alive).count();
        let voters = facts.members.values().filter(|member| member.voter).count();
        let tolerated = alive.min(voters).saturating_sub(voters / 2 + 1);
        let flag = |on: bool| f64::from(u8::from(on));
        let silences = facts.members.values().filter_map(|member| member.silence);
        let silence = silences.max().unwrap_or_default().as_secs_f64() * 1000.0;
        let tasks = tokio::runtime::Handle::try_current().map_or(0, |own| own.metrics().num_alive_tasks());
        let committed = facts.committed.max(facts.applied).unwrap_or(0);
        let gauges = vec![
            ("consul_raft_leader_lastContact", silence),
            ("consul_raft_commitIndex", committed as f64),
            ("consul_raft_appliedIndex", facts.applied.unwrap_or(0) as f64),
            ("consul_session_ttl_active", sessions as f64),
            ("consul_autopilot_healthy", flag(alive == nodes.len())),
            ("consul_autopilot_failure_tolerance", tolerated as f64),
            ("consul_raft_state_leader", flag(facts.role == Role::Leader)),
            ("consul_raft_state_candidate", flag(facts.role == Role::Candidate)),
            ("consul_runtime_alloc_bytes", resident_bytes().unwrap_or(0) as f64),
            // Tasks are to this runtime what goroutines are to Go's.
            ("consul_runtime_num_goroutines", tasks as f64),
            ("consul_server_isLeader", flag(facts.role == Role::Leader)),
        ];
        let counters = vec![
            ("consul_raft_apply", self.all.count()),
            ("consul_client_rpc", load(&self.requests)),
            ("consul_rpc_request", load(&self.requests)),
            ("consul_rpc_query", load(&self.queries)),
        ];
        let [dispatch, apply, append, heartbeat] = raft_steps(consensus);
        let spent = [
            ("consul_raft_commitTime", &self.all),
            dispatch,
            apply,
            append,
            heartbeat,
            ("consul_kvs_apply", &self.keys),
            ("consul_txn_apply", &self.transactions),
            ("consul_session_apply", &self.sessions),
        ];
        Figures {
            gauges,
            counters,
            spent,
        }
    }

    pub(crate) fn consul_text(&self, consensus: &Consensus, sessions: usize) -> String {
        let Figures {
            gauges,
            counters,
            spent,
        } = self.figures(consensus, sessions);
        let mut page = Page::default();
        for (name, value) in gauges {
            page.gauge(name, name, value);
        }
        for (name, value) in counters {
            page.kind(name, "counter", name);
            page.line(name, "", value);
        }
        for (name, spent) in spent {
            page.summary(name, millis(spent), spent.count());
        }
        self.counters(&mut page);
        process(&mut page);
        page.text
    }

    pub(crate) fn consul_json(&self, consensus: &Consensus, sessions: usize) -> Value {
        let Figures {
            gauges,
            counters,
            spent,
        } = self.figures(consensus, sessions);
        // Consul's names have dots here.
        let dotted = |name: &str| name.replace('_', ".");
        let gauges: Vec<_> = gauges
            .iter()
            .map(|(name, value)| json!({"Name": dotted(name), "Value": value, "Labels": {}}))
            .collect();
        let counters: Vec<_> = counters
            .iter()
            .map(|(name, count)| {
                json!({
                    "Name": dotted(name), "Count": count, "Rate": 0, "Sum": count, "Min": 1, "Max": 1, "Mean": 1,
                    "Stddev": 0, "Labels": {},
                })
            })
            .collect();
        let samples: Vec<_> = spent
            .iter()
            .map(|(name, spent)| {
                let (count, millis) = (spent.count(), millis(spent));
                let mean = if count > 0 { millis / count as f64 } else { 0.0 };
                json!({
                    "Name": dotted(name), "Count": count, "Rate": 0, "Sum": millis, "Min": 0, "Max": mean, "Mean": mean,
                    "Stddev": 0, "Labels": {},
                })
            })
            .collect();
        let now = conclave_runtime::clock::now()
            .strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
            .to_string();
        json!({"Timestamp": now, "Gauges": gauges, "Points": [], "Counters": counters, "Samples": samples})
    }
}

/// What Raft's steps take, as Consul calls them.
fn raft_steps(consensus: &Consensus) -> [(&'static str, &Spent); 4] {
    let steps = consensus.timings();
    [
        ("consul_raft_leader_dispatchLog", &steps.dispatch),
        ("consul_raft_fsm_apply", &steps.apply),
        ("consul_raft_replication_appendEntries_rpc", &steps.append),
        ("consul_raft_replication_heartbeat", &steps.heartbeat),
    ]
}

/// The same for a page.
pub(super) fn raft_summaries(page: &mut Page, consensus: &Consensus) {
    for (name, spent) in raft_steps(consensus) {
        page.summary(name, millis(spent), spent.count());
    }
}

fn millis(spent: &Spent) -> f64 {
    1000.0 * spent.total().as_secs_f64()
}
