//! Processes that are stopped by SIGSTOP, and go on when the test is done with them.

use conclave_localcluster::{Signal, TrackedProcess};

/// What is stopped. Dropping it resumes everything: a stopped process cannot be ended in an orderly way.
#[derive(Default)]
pub struct Frozen {
    processes: Vec<TrackedProcess>,
}

impl Frozen {
    /// Stops a process.
    pub fn freeze(&mut self, process: TrackedProcess) {
        process.signal(Signal::SIGSTOP);
        self.processes.push(process);
    }

    /// Stops a PostgreSQL with all of its processes.
    pub fn freeze_postgres(&mut self, postmaster: TrackedProcess) {
        // It first, or it would start others.
        self.freeze(postmaster);
        let all = children(postmaster.pid).into_iter().filter_map(TrackedProcess::running);
        all.for_each(|process| self.freeze(process));
    }

    /// Lets everything go on.
    pub fn resume(&mut self) {
        for process in self.processes.drain(..) {
            process.signal(Signal::SIGCONT);
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.resume();
    }
}

/// The processes that this one has started.
fn children(parent: i32) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// From `/proc/<pid>/stat`, whose second field, the name in brackets, may hold anything.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}
