//! How a primary of the simulation puts its quorum in force and proves it.

use conclave_catalog::NodeId;

use super::node::{Job, Task};
use super::server::Server;
use super::wal::Record;
use super::world::{Mutant, World, note};
use crate::driver::settings::Acknowledgers;

impl World {
    /// One turn of the proof: the settings first, then a marker, then its acknowledgement.
    pub(super) fn prove(
        &mut self,
        id: NodeId,
        epoch: u64,
        acknowledgers: Acknowledgers,
        marker: Option<(u64, Record)>,
        until: u64,
    ) {
        let now = self.now;
        let life = self.peek(id).life;
        let Server::Primary(primary) = &self.peek(id).server else {
            return;
        };
        if now >= until || self.peek(id).disk_full {
            return;
        }
        let timeline = primary.timeline;
        let marker = match marker {
            None => {
                let before = primary.configured.setting();
                self.reload(id, &acknowledgers);
                let settles = self.peek(id).memory.has_to_settle(&before, &acknowledgers)
                    && self.mutant != Some(Mutant::TrustReload);
                if settles && !self.obeys(id) {
                    // Checkpoints: the server reads its settings on the way.
                    let job = Job::Prove {
                        epoch,
                        acknowledgers,
                        marker,
                        until,
                    };
                    self.node(id).task = Task::Working { at: now + 10, job };
                    return;
                }
                if settles {
                    self.node(id).memory.obeys(&acknowledgers);
                }
                let record = self.append(id, timeline, true);
                record.map(|record| {
                    self.checks.marker(record);
                    (life, record)
                })
            }
            Some((begun, record)) => {
                if begun != life {
                    return;
                }
                if !primary.waiting.contains(&record) {
                    note!(self, "{id}: the quorum acknowledges epoch {epoch}");
                    self.node(id).memory.proven(epoch, &acknowledgers);
                    return self.open(id, epoch);
                }
                marker
            }
        };
        let job = Job::Prove {
            epoch,
            acknowledgers,
            marker,
            until,
        };
        self.node(id).task = Task::Working { at: now + 3, job };
    }

    /// Whether all processes of the server have read its settings.
    fn obeys(&self, id: NodeId) -> bool {
        match &self.peek(id).server {
            Server::Primary(primary) => primary.effective == primary.configured,
            _ => false,
        }
    }
}
