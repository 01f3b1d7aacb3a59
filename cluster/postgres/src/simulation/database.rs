//! How the servers of the simulation behave: recovery, streaming, commits, clients.

use conclave_catalog::NodeId;

use super::node::Copy;
use super::server::{Data, Primary, Receiver, Recovery, Server};
use super::wal::{Record, Wal};
use super::world::{Message, World, note};
use crate::driver::settings::Acknowledgers;

impl World {
    /// A server process starts on what lies in the data directory.
    pub(super) fn start_server(&mut self, id: NodeId, acknowledgers: &Acknowledgers) {
        let now = self.now;
        let slow = self.hostile && self.rng.once_in(10);
        let ready = now + self.rng.between(5, 60);
        let replay = self.rng.below(if slow { 80 } else { 12 }) as u32;
        let Some(data) = self.peek(id).data.clone() else { return };
        if self.peek(id).server.is_on() || self.peek(id).disk_full {
            return;
        }
        if data.signal && data.dead_end {
            note!(self, "{id}: the server refuses to start: a history leads nowhere");
            self.count("dead end");
            return;
        }
        // A server that did not end cleanly makes what it finds durable before it recovers.
        if let Some(data) = &mut self.node(id).data {
            data.flushed = data.end;
        }
        let server = if data.signal {
            let depth = self.wal.lsn(data.end).0 / 10;
            let replayed = self.wal.upto(data.end, (depth as u32).saturating_sub(replay).max(1));
            Server::Recovery(Recovery {
                ready,
                slow,
                replayed,
                read_all: false,
                has_received: false,
                receiver: None,
                configured: acknowledgers.clone(),
                effective: acknowledgers.clone(),
                effective_at: now,
            })
        } else {
            let timeline = self.wal.timeline(data.end);
            let end = self.wal.append(data.end, timeline);
            let data = self.node(id).data.insert(data);
            (data.end, data.flushed, data.as_primary) = (end, end, true);
            data.control_timeline = timeline;
            Server::Primary(Primary {
                ready,
                timeline,
                configured: acknowledgers.clone(),
                effective: acknowledgers.clone(),
                effective_at: now,
                visible: end,
                waiting: Vec::new(),
                reported: std::collections::BTreeMap::new(),
                checkpoint: None,
            })
        };
        note!(
            self,
            "{id}: starts as {}",
            if matches!(server, Server::Recovery(_)) {
                "standby"
            } else {
                "primary"
            }
        );
        let node = self.node(id);
        node.life += 1;
        node.server = server;
        if let Some(data) = &mut node.data {
            data.clean = false;
        }
    }

    /// The settings are read anew: at once by whoever asks, later by the processes that matter.
    pub(super) fn reload(&mut self, id: NodeId, acknowledgers: &Acknowledgers) {
        let busy = self.hostile && self.rng.once_in(3);
        let at = self.now
            + if busy {
                self.rng.between(100, 4000)
            } else {
                self.rng.between(0, 10)
            };
        let (configured, effective_at) = match &mut self.node(id).server {
            Server::Primary(primary) => (&mut primary.configured, &mut primary.effective_at),
            Server::Recovery(recovery) => (&mut recovery.configured, &mut recovery.effective_at),
            Server::Off => return,
        };
        if configured != acknowledgers {
            configured.clone_from(acknowledgers);
            *effective_at = at;
        }
    }

    /// A server does what it does by itself.
    pub(super) fn serve(&mut self, id: NodeId) {
        let now = self.now;
        let feeds = |world: &Self, receiver: &Receiver| world.feeds(receiver.from, receiver.life, id);
        match &self.peek(id).server {
            Server::Off => {}
            Server::Recovery(recovery) => {
                let alive = recovery.receiver.as_ref().is_some_and(|receiver| feeds(self, receiver));
                self.recover(id, alive);
            }
            Server::Primary(primary) => {
                if now < primary.ready {
                    return;
                }
                if self.peek(id).disk_full && self.rng.once_in(20) {
                    note!(self, "{id}: the primary finds the disk full and ends");
                    self.node(id).end_server();
                    return;
                }
                self.settle_commits(id);
            }
        }
    }

    /// Whether a walreceiver of `to` still hangs on that server: both gates are open, and the processes behind them run.
    fn feeds(&self, from: NodeId, life: u64, to: NodeId) -> bool {
        let (source, sink) = (self.peek(from), self.peek(to));
        source.life == life && source.server.is_on() && source.gates.replication && sink.gates.upstream == Some(from)
    }

    fn recover(&mut self, id: NodeId, alive: bool) {
        let now = self.now;
        let (steps, slowly) = (self.rng.below(6) as u32, self.rng.once_in(4));
        let (closes, again) = (self.rng.once_in(3), self.rng.once_in(8));
        let (wal, node) = (&self.wal, &mut self.nodes[id.0 as usize - 1]);
        let (Some(data), Server::Recovery(recovery)) = (&mut node.data, &mut node.server) else {
            return;
        };
        if now >= recovery.effective_at && recovery.effective != recovery.configured {
            recovery.effective = recovery.configured.clone();
        }
        let steps = if recovery.slow { u32::from(slowly) } else { steps };
        recovery.replayed = wal.after(recovery.replayed, data.end, steps);
        recovery.slow &= recovery.replayed != data.end;
        // It comes to the upstream socket, which the manager's process listens on, and again whenever it got nothing there.
        let asks = recovery.replayed == data.end && recovery.receiver.is_none() && now >= recovery.ready;
        if asks && again && node.manager == super::node::Manager::Running {
            recovery.read_all = true;
            node.asked += 1;
        }
        if let Some(receiver) = &mut recovery.receiver
            && (!alive || receiver.cut)
        {
            receiver.cut = true;
            let left = receiver.sent == data.end;
            if left && data.flushed == data.end && closes {
                recovery.receiver = None;
            }
        }
    }

    fn settle_commits(&mut self, id: NodeId) {
        let now = self.now;
        let drops = self.rng.once_in(3);
        let gone: Vec<NodeId> = match &self.peek(id).server {
            Server::Primary(primary) => {
                let hangs = |standby: &NodeId| {
                    let receiver = match &self.peek(*standby).server {
                        Server::Recovery(recovery) => recovery.receiver.as_ref(),
                        _ => None,
                    };
                    receiver.is_some_and(|receiver| {
                        receiver.from == id && receiver.life == self.peek(id).life && !receiver.cut
                    })
                };
                primary
                    .reported
                    .keys()
                    .copied()
                    .filter(|standby| !hangs(standby))
                    .collect()
            }
            _ => return,
        };
        let (wal, node) = (&self.wal, &mut self.nodes[id.0 as usize - 1]);
        let (Some(data), Server::Primary(primary)) = (&mut node.data, &mut node.server) else {
            return;
        };
        if drops {
            for standby in gone {
                primary.reported.remove(&standby);
            }
        }
        data.flushed = data.end;
        if now >= primary.effective_at {
            primary.effective.clone_from(&primary.configured);
        }
        if primary.checkpoint.is_some_and(|at| now >= at) {
            primary.checkpoint = None;
            data.control_timeline = primary.timeline;
        }
        let released = primary.release(wal, data.flushed);
        let epoch = node.gates.serving;
        if let Some(last) = released.last() {
            primary.visible = *last;
        }
        for record in released {
            note!(
                self,
                "{id}: releases {record:?} at {} in epoch {epoch:?}",
                self.wal.lsn(record)
            );
            self.checks.released(&self.wal, id, epoch, record);
        }
    }

    /// Log flows from upstreams to standbys, and what they have flushed is told back.
    pub(super) fn replicate(&mut self) {
        for index in 0..self.nodes.len() {
            let id = self.nodes[index].id;
            if !matches!(self.nodes[index].server, Server::Recovery(_)) {
                continue;
            }
            self.connect_receiver(id);
            self.receive(id);
        }
    }

    fn connect_receiver(&mut self, id: NodeId) {
        let node = self.peek(id);
        let (Server::Recovery(recovery), Some(data)) = (&node.server, &node.data) else {
            return;
        };
        let Some(from) = node
            .gates
            .upstream
            .filter(|_| recovery.read_all && recovery.receiver.is_none())
        else {
            return;
        };
        let source = self.peek(from);
        let ready = match &source.server {
            Server::Primary(primary) => self.now >= primary.ready,
            _ => false,
        };
        let open = ready && source.gates.replication && self.connected(id, from) && !node.disk_full;
        let Some(theirs) = source.data.as_ref().filter(|_| open) else {
            return;
        };
        // It compares timelines and positions, not contents.
        let timeline = self.wal.timeline(data.end);
        let fits = self
            .wal
            .end_of(theirs.flushed, timeline)
            .is_some_and(|end| self.wal.lsn(data.end) <= self.wal.lsn(end));
        let (life, same, end) = (source.life, self.wal.holds(theirs.flushed, data.end), data.end);
        if !fits || !self.rng.once_in(8) {
            return;
        }
        if !same {
            self.checks
                .fail(format!("{id} streams from {from} what does not go on from its own log"));
        }
        note!(self, "{id}: receives from {from}");
        let mut told = None;
        let node = self.node(id);
        if let (Some(recovery), Some(data)) = (node.server.recovery(), &mut node.data) {
            recovery.has_received = true;
            (data.torn, data.as_primary) = (false, false);
            recovery.receiver = Some(Receiver {
                from,
                life,
                sent: end,
                cut: false,
            });
            told = Some(data.flushed);
        }
        if let Some(at) = told {
            let at = self.wal.lsn(at);
            self.send(Message::Flushed {
                from: id,
                to: from,
                life,
                at,
            });
        }
    }

    fn receive(&mut self, id: NodeId) {
        let (ships, takes, tears) = (self.rng.below(5) as u32, self.rng.below(5) as u32, self.rng.once_in(6));
        let flushes = self.rng.once_in(if self.peek(id).disk_slow { 60 } else { 2 });
        let Server::Recovery(recovery) = &self.peek(id).server else {
            return;
        };
        let Some(receiver) = recovery.receiver.clone() else {
            return;
        };
        let flowing =
            !receiver.cut && self.connected(id, receiver.from) && self.feeds(receiver.from, receiver.life, id);
        let theirs = self.peek(receiver.from).data.as_ref().map(|data| data.flushed);
        let sent = match theirs {
            Some(theirs) if flowing => self.wal.after(receiver.sent, theirs, ships),
            _ => receiver.sent,
        };
        if self.peek(id).disk_full {
            return;
        }
        let (wal, node) = (&self.wal, &mut self.nodes[id.0 as usize - 1]);
        let (Some(data), Server::Recovery(recovery)) = (&mut node.data, &mut node.server) else {
            return;
        };
        let Some(receiver) = &mut recovery.receiver else { return };
        receiver.sent = sent;
        data.end = wal.after(data.end, sent, takes.max(u32::from(receiver.cut)));
        data.torn = tears && data.end != sent;
        if !flushes || data.flushed == data.end {
            return;
        }
        data.flushed = data.end;
        if data.control_timeline < wal.timeline(data.end) && tears {
            data.control_timeline = wal.timeline(data.end);
        }
        let (to, life, at) = (receiver.from, receiver.life, wal.lsn(data.flushed));
        if flowing {
            self.send(Message::Flushed { from: id, to, life, at });
        }
    }

    /// Clients read and write through any node's view of the rule.
    pub(super) fn use_database(&mut self) {
        if !self.rng.once_in(2) {
            return;
        }
        let members = self.members();
        let Some(client) = self.rng.pick(&members).filter(|id| self.peek(*id).runs()) else {
            return;
        };
        let state = self.raft.state(self.peek(client).applied);
        let Some(rule) = &state.rule else { return };
        let (primary, reads) = (rule.primary, self.rng.once_in(3));
        let there = self.raft.state(self.peek(primary).applied);
        let open = self.peek(primary).gates.serving.is_some() && rule.epoch >= there.primary_since(primary);
        if !self.connected(client, primary) || !open {
            return;
        }
        let latest = self.raft.latest().rule.as_ref().map(|rule| (rule.epoch, rule.primary));
        let now = self.now;
        let node = self.peek(primary);
        let (Server::Primary(server), Some(data)) = (&node.server, &node.data) else {
            return;
        };
        if now < server.ready {
            return;
        }
        let (visible, end, timeline) = (server.visible, data.end, server.timeline);
        if let Some((epoch, _)) = latest.filter(|(_, node)| *node == primary) {
            self.checks.serves(&self.wal, primary, epoch, end);
        }
        if reads {
            note!(self, "{primary}: shows {visible:?} at {}", self.wal.lsn(visible));
            self.checks.shown(&self.wal, primary, visible);
        } else if !self.peek(primary).disk_full {
            self.append(primary, timeline, true);
        }
    }

    /// A primary writes a record; a commit waits for its quorum.
    pub(super) fn append(&mut self, id: NodeId, timeline: u32, commits: bool) -> Option<Record> {
        let end = self.peek(id).data.as_ref()?.end;
        let record = self.wal.append(end, timeline);
        let node = self.node(id);
        node.data.as_mut()?.end = record;
        if commits {
            node.server.primary()?.waiting.push(record);
        }
        Some(record)
    }

    /// What a copy from another node would be now; `None` when that cannot be reached any more.
    pub(super) fn source(&self, id: NodeId, copy: Copy) -> Option<Data> {
        let source = self.peek(copy.from);
        let fed = self.feeds(copy.from, copy.life, id) && self.connected(id, copy.from);
        let ready = match &source.server {
            Server::Primary(primary) => self.now >= primary.ready,
            _ => false,
        };
        source.data.clone().filter(|_| fed && ready && !self.peek(id).disk_full)
    }

    /// What a rewind makes of a data directory. It looks at the control files alone to see whether there is anything to do.
    pub(super) fn rewound(&mut self, target: &Data, source: &Data) -> Data {
        let mut after = target.clone();
        after.signal = true;
        if target.control_timeline == source.control_timeline {
            self.count("rewind shortcut");
            return after;
        }
        if self.wal.common(target.end, source.flushed) == target.end {
            return after;
        }
        self.count("rewind");
        copied(source)
    }
}

/// A copy of a primary as it is now.
pub(super) fn copied(source: &Data) -> Data {
    Data {
        end: source.flushed,
        flushed: source.flushed,
        torn: false,
        control_timeline: source.control_timeline,
        clean: false,
        as_primary: false,
        signal: true,
        dead_end: false,
    }
}

/// The data directory of a new cluster.
pub(super) fn fresh() -> Data {
    Data {
        end: Wal::ROOT,
        flushed: Wal::ROOT,
        torn: false,
        control_timeline: 1,
        clean: false,
        as_primary: true,
        signal: false,
        dead_end: false,
    }
}
