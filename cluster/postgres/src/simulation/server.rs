//! The model of one PostgreSQL: its data directory, and its server in recovery or as primary.

use std::collections::BTreeMap;

use conclave_catalog::NodeId;
use conclave_catalog::database::Lsn;

use super::wal::{Record, Wal};
use crate::driver::session::Facts;
use crate::driver::settings::Acknowledgers;

/// A data directory. It survives the server; what is not flushed does not survive a power cut.
#[derive(Debug, Clone)]
pub(super) struct Data {
    /// The end of the log that was written.
    pub(super) end: Record,
    /// The end of the log that is durable.
    pub(super) flushed: Record,
    /// Whether the beginning of another record is there.
    pub(super) torn: bool,
    /// The timeline that the control file knows: that of the last checkpoint.
    pub(super) control_timeline: u32,
    /// Whether the control file says that it ended as a primary.
    pub(super) as_primary: bool,
    /// Whether it was ended cleanly, so that no recovery of its own comes before a rewind.
    pub(super) clean: bool,
    /// `standby.signal`.
    pub(super) signal: bool,
    /// A history that leads nowhere and that no later one follows: the server refuses to recover.
    pub(super) dead_end: bool,
}

/// What the server does.
#[derive(Debug, Clone)]
pub(super) enum Server {
    Off,
    /// It accepts connections only from `ready` on.
    Recovery(Recovery),
    Primary(Primary),
}

#[derive(Debug, Clone)]
pub(super) struct Recovery {
    pub(super) ready: u64,
    /// Whether it has much to replay, and accepts connections long before it is done.
    pub(super) slow: bool,
    /// The end of what has been replayed. Before all of the local log is, the true end is not known.
    pub(super) replayed: Record,
    /// Whether all of the local log has been replayed, and log was asked for.
    pub(super) read_all: bool,
    pub(super) has_received: bool,
    pub(super) receiver: Option<Receiver>,
    pub(super) configured: Acknowledgers,
    pub(super) effective: Acknowledgers,
    pub(super) effective_at: u64,
}

/// A walreceiver.
#[derive(Debug, Clone)]
pub(super) struct Receiver {
    pub(super) from: NodeId,
    /// The upstream's start, so that its next life is another server.
    pub(super) life: u64,
    /// What is on the way here already.
    pub(super) sent: Record,
    /// The gate was closed: it reads what is on the way and ends.
    pub(super) cut: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Primary {
    pub(super) ready: u64,
    pub(super) timeline: u32,
    /// The quorum by the settings.
    pub(super) configured: Acknowledgers,
    /// The quorum that waiting commits obey, which follows the settings when the server's processes have read them.
    pub(super) effective: Acknowledgers,
    pub(super) effective_at: u64,
    /// What others see: commits become visible when they are released.
    pub(super) visible: Record,
    /// Commits that wait.
    pub(super) waiting: Vec<Record>,
    /// What standbys say that they have flushed.
    pub(super) reported: BTreeMap<NodeId, Lsn>,
    /// When the checkpoint after the promotion is done.
    pub(super) checkpoint: Option<u64>,
}

impl Server {
    pub(super) fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    pub(super) fn primary(&mut self) -> Option<&mut Primary> {
        match self {
            Self::Primary(primary) => Some(primary),
            _ => None,
        }
    }

    pub(super) fn recovery(&mut self) -> Option<&mut Recovery> {
        match self {
            Self::Recovery(recovery) => Some(recovery),
            _ => None,
        }
    }

    /// What the driver's query shows.
    pub(super) fn facts(&self, wal: &Wal, data: Option<&Data>, now: u64) -> Option<Facts> {
        let data = data?;
        let (in_recovery, ready) = match self {
            Self::Off => return None,
            Self::Recovery(recovery) => (true, recovery.ready),
            Self::Primary(primary) => (false, primary.ready),
        };
        if now < ready {
            return None;
        }
        let mut facts = Facts {
            in_recovery,
            lsn: wal.lsn(data.flushed),
            timeline: wal.timeline(data.end),
            replayed: Lsn(0),
            receiving: false,
            receiver: false,
            has_received: false,
            system_id: "7".into(),
            standbys: std::collections::BTreeSet::new(),
        };
        match self {
            Self::Recovery(recovery) => {
                let torn = u64::from(data.torn && recovery.has_received) * 5;
                let received = if recovery.has_received {
                    data.flushed
                } else {
                    recovery.replayed
                };
                facts.lsn = Lsn(wal.lsn(received).0.max(wal.lsn(recovery.replayed).0) + torn);
                facts.replayed = wal.lsn(recovery.replayed);
                facts.receiver = recovery.receiver.is_some();
                facts.receiving = recovery.receiver.as_ref().is_some_and(|receiver| !receiver.cut);
                facts.has_received = recovery.has_received;
            }
            Self::Primary(primary) => {
                facts.timeline = primary.timeline;
                facts.standbys = primary.reported.keys().map(|id| name(*id)).collect();
            }
            Self::Off => {}
        }
        Some(facts)
    }
}

/// The name under which a node's standby connects.
pub(super) fn name(id: NodeId) -> String {
    format!("n{id}")
}

impl Primary {
    /// How many commits the quorum has released, at their records: the oldest first.
    pub(super) fn release(&mut self, wal: &Wal, flushed: Record) -> Vec<Record> {
        let end = if self.effective.count == 0 {
            wal.lsn(flushed)
        } else {
            let named = |id: &NodeId| self.effective.names.contains(&name(*id));
            let mut positions: Vec<Lsn> = self
                .reported
                .iter()
                .filter(|(id, _)| named(id))
                .map(|(_, at)| *at)
                .collect();
            positions.sort_unstable_by(|a, b| b.cmp(a));
            let count = self.effective.count as usize;
            positions
                .get(count - 1)
                .copied()
                .unwrap_or(Lsn(0))
                .min(wal.lsn(flushed))
        };
        let released = self
            .waiting
            .iter()
            .take_while(|record| wal.lsn(**record) <= end)
            .count();
        self.waiting.drain(..released).collect()
    }
}
