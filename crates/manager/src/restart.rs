//! Orders to restart a node, as cluster settings: whoever is to obey one sees it when it is agreed on, and obeys it once.

use std::path::{Path, PathBuf};

use conclave_catalog::NodeId;
use conclave_consensus::Consensus;
use conclave_postgres::Database;
use conclave_runtime::{Shutdown, clock};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// An order that has not been obeyed by then is void: a node that was down meanwhile has restarted anyway.
const HOLDS_SECONDS: i64 = 60;
/// More than anybody gives to one node before the first of them is void.
const OBEYED_MAX: usize = 64;
const SETTING: &str = "restart.";

/// An order to restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartOrder {
    /// Tells it apart from others.
    pub id: String,
    /// Whether PostgreSQL alone is restarted.
    pub postgres_only: bool,
    /// When it was given, by the clock of whoever gave it.
    pub at: jiff::Timestamp,
}

impl RestartOrder {
    /// A new order.
    pub fn new(postgres_only: bool) -> Self {
        let at = clock::now();
        Self {
            id: format!("{}-{}", at.as_nanosecond(), std::process::id()),
            postgres_only,
            at,
        }
    }

    fn holds(&self, now: jiff::Timestamp) -> bool {
        now.duration_since(self.at).as_secs().abs() <= HOLDS_SECONDS
    }
}

/// The cluster setting that holds a node's order.
pub fn setting_of(node: NodeId) -> String {
    format!("{SETTING}{node}")
}

/// The orders that were obeyed, on disk before they are, the latest last.
///
/// More than one: a manager that starts sees the settings as they were one after the other, and with them each order that came
/// before the latest. It would obey those again, and start over each time until they are void.
struct Obeyed(PathBuf);

impl Obeyed {
    fn read(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn contains(&self, id: &str) -> bool {
        self.read().iter().any(|obeyed| obeyed == id)
    }

    fn add(&self, id: &str) -> std::io::Result<()> {
        let mut ids = self.read();
        ids.push(id.to_owned());
        let kept = &ids[ids.len().saturating_sub(OBEYED_MAX)..];
        let temporary = self.0.with_extension("new");
        std::fs::write(&temporary, kept.join("\n"))?;
        std::fs::File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, &self.0)
    }
}

/// Obeys the orders for this node. The value turns true when the manager is to restart.
pub(crate) async fn obey(
    data_dir: PathBuf,
    consensus: Consensus,
    database: Option<Database>,
    restart: watch::Sender<bool>,
    shutdown: Shutdown,
) {
    let obeyed = Obeyed(file(&data_dir));
    let mut state = consensus.state();
    let key = setting_of(consensus.me());
    loop {
        let order = {
            let state = state.borrow_and_update();
            let value = state.settings().get(&key).cloned();
            value.and_then(|value| serde_json::from_value::<RestartOrder>(value).ok())
        };
        let order = order.filter(|order| order.holds(clock::now()) && !obeyed.contains(&order.id));
        if let Some(order) = order {
            match obeyed.add(&order.id) {
                Err(error) => tracing::warn!(%error, "an order to restart cannot be written down, and is not obeyed"),
                Ok(()) if order.postgres_only => {
                    tracing::info!("PostgreSQL is restarted, as ordered");
                    if let Some(database) = &database {
                        database.restart();
                    }
                }
                Ok(()) => {
                    tracing::info!("the manager restarts, as ordered");
                    restart.send_replace(true);
                    return;
                }
            }
        }
        if !matches!(shutdown.run_until(state.changed()).await, Some(Ok(()))) {
            return;
        }
    }
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("restart-obeyed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_order_is_void() {
        let order = RestartOrder::new(true);
        assert!(order.holds(order.at));
        assert!(!order.holds(order.at + jiff::SignedDuration::from_mins(2)));
    }

    #[test]
    fn an_order_is_obeyed_once() {
        let dir = tempfile::tempdir().unwrap();
        let obeyed = Obeyed(file(dir.path()));
        assert!(!obeyed.contains("7"));
        obeyed.add("7").unwrap();
        obeyed.add("8").unwrap();
        let next = Obeyed(file(dir.path()));
        assert!(
            next.contains("7") && next.contains("8"),
            "also when the start goes through older settings"
        );
        for id in 0..OBEYED_MAX {
            next.add(&format!("later {id}")).unwrap();
        }
        assert!(!next.contains("8"));
        assert_eq!(next.read().len(), OBEYED_MAX);
    }
}
