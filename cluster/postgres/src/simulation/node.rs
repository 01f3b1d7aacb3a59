//! A node of the simulation: its manager with the real driver's core, its disk and its server.

use std::collections::BTreeMap;

use conclave_catalog::NodeId;
use conclave_catalog::database::Lsn;

use super::server::{Data, Server};
use super::wal::Record;
use crate::coordinator::{Observation, Role};
use crate::driver::decide::{Gates, Memory};
use crate::driver::pledge::{Goal, Pledge};
use crate::driver::settings::Acknowledgers;
use crate::tracking::Tracking;

/// The manager's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager {
    Running,
    /// Stopped by a signal: it answers nothing, relays nothing, and goes on with what it knew.
    Paused,
    Down,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    /// Whether it belongs to the cluster.
    pub(super) member: bool,
    pub(super) manager: Manager,
    // On disk.
    pub(super) pledge: Pledge,
    pub(super) data: Option<Data>,
    pub(super) half_rewound: bool,
    pub(super) disk_full: bool,
    pub(super) disk_slow: bool,
    // The server's process.
    pub(super) server: Server,
    /// Which of its lives the server is in.
    pub(super) life: u64,
    // In the manager's memory.
    pub(super) applied: usize,
    pub(super) confirmed: bool,
    pub(super) memory: Memory,
    pub(super) gates: Gates,
    pub(super) observation: Observation,
    pub(super) asked: u64,
    pub(super) task: Task,
    pub(super) coordinator: Coordinator,
}

/// What the driver's task is at.
#[derive(Debug, Clone)]
pub(super) enum Task {
    Idle { at: u64 },
    Looking { at: u64, goal: Goal, pledged: u64 },
    Working { at: u64, job: Job },
}

/// A step under way.
#[derive(Debug, Clone)]
pub(super) enum Job {
    Initialize,
    Start {
        acknowledgers: Acknowledgers,
    },
    StartStandby,
    Demote,
    Stop,
    Rewind(Copy),
    Clone(Copy),
    /// The signal has been given, and the new log is being begun.
    Promote {
        epoch: u64,
        timeline: u32,
        acknowledgers: Acknowledgers,
    },
    Prove {
        epoch: u64,
        acknowledgers: Acknowledgers,
        marker: Option<(u64, Record)>,
        until: u64,
    },
}

/// A copy from another node that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    pub(super) from: NodeId,
    pub(super) life: u64,
}

/// What the coordinator on this node is at.
pub(super) struct Coordinator {
    pub(super) tracking: Tracking,
    pub(super) round: u64,
    pub(super) at: u64,
    /// The questions without an answer: their number, and when they were asked.
    pub(super) asked: BTreeMap<NodeId, (u64, u64)>,
    /// Whether it waits for answers before it decides.
    pub(super) observing: bool,
}

impl Coordinator {
    pub(super) fn idle(at: u64) -> Self {
        Self {
            tracking: Tracking::default(),
            round: 0,
            at,
            asked: BTreeMap::new(),
            observing: false,
        }
    }
}

impl Node {
    pub(super) fn new(id: NodeId) -> Self {
        Self {
            id,
            member: true,
            manager: Manager::Running,
            pledge: Pledge::default(),
            data: None,
            half_rewound: false,
            disk_full: false,
            disk_slow: false,
            server: Server::Off,
            life: 0,
            applied: 0,
            confirmed: false,
            memory: Memory::default(),
            gates: Gates::default(),
            observation: nothing(0),
            asked: 0,
            task: Task::Idle { at: 0 },
            coordinator: Coordinator::idle(0),
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.manager == Manager::Running
    }

    /// The manager's process ends: all that it knew is gone, and its network with it.
    pub(super) fn end_manager(&mut self) {
        self.manager = Manager::Down;
        self.confirmed = false;
        self.memory = Memory::default();
        self.gates = Gates::default();
        self.asked = 0;
        self.task = Task::Idle { at: 0 };
    }

    pub(super) fn start_manager(&mut self, now: u64) {
        self.manager = Manager::Running;
        self.observation = nothing(self.pledge.epoch);
        self.task = Task::Idle { at: now };
        self.coordinator = Coordinator::idle(now);
    }

    /// The server's process ends. What it wrote is there, as long as the power is.
    pub(super) fn end_server(&mut self) {
        self.server = Server::Off;
        self.life += 1;
        if let Some(data) = &mut self.data {
            data.torn = false;
        }
    }

    /// The power is cut.
    pub(super) fn cut_power(&mut self) {
        self.end_manager();
        self.end_server();
        if let Some(data) = &mut self.data {
            data.end = data.flushed;
        }
    }
}

fn nothing(pledge: u64) -> Observation {
    Observation {
        role: Role::Empty,
        pledge,
        settled: false,
        timeline: 0,
        lsn: Lsn(0),
        streaming: false,
        serving: None,
        drained: None,
        quiet: None,
        switch_lsn: None,
        system_id: None,
    }
}
