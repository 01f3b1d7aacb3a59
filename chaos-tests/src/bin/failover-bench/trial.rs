//! One fault: what goes wrong, what the clients see of it, and how long it takes until all is as before.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use conclave_chaos_tests::hosts::Hosts;
use conclave_chaos_tests::ledger::open;
use conclave_chaos_tests::sample::Sample;
use conclave_chaos_tests::within;
use serde_json::{Value, json};

use crate::clients::{Clients, lost};
use crate::subject::{NODES, PATIENCE, Return, Subject};

/// Writes have to go on for so long before they count as back.
const STEADY: Duration = Duration::from_secs(1);
/// Faults come at any moment of whatever happens periodically.
const PHASE_MS: std::ops::Range<u64> = 0..700;

/// What goes wrong with the primary's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// SIGKILL of all that runs there.
    Node,
    /// SIGKILL of PostgreSQL alone.
    Postgres,
    /// It and the other nodes do not hear each other.
    Cut,
    /// Another node is made primary as planned.
    Switchover,
}

impl Fault {
    /// Its name in the results.
    pub fn key(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Postgres => "postgres",
            Self::Cut => "cut",
            Self::Switchover => "switchover",
        }
    }
}

/// What was seen.
pub struct Trial {
    /// The longest time in which no client on another node had a write acknowledged.
    gap: Duration,
    /// The same for the one of them that had to wait longest.
    slowest: Duration,
    /// Until the old primary was a standby that receives, from its start or the end of the cut on, and how it came to that.
    back: Option<(Duration, Return)>,
    acknowledged: usize,
    /// Of clients on other nodes.
    lost: usize,
    /// Of the client on the old primary's own node.
    lost_there: usize,
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gap, slowest) = (self.gap.as_secs_f64(), self.slowest.as_secs_f64());
        write!(f, "writes away for {gap:.3} s ({slowest:.3} s for the slowest client)")?;
        if let Some((time, way)) = &self.back {
            write!(f, ", back after {:.2} s ({way:?})", time.as_secs_f64())?;
        }
        let (lost, there) = (self.lost, self.lost_there);
        write!(
            f,
            ", {} acknowledged, {lost} lost and {there} on its own side",
            self.acknowledged
        )
    }
}

/// Brings the fault over a healthy cluster and waits until it is healthy again.
pub async fn run<S: Subject>(subject: &mut S, hosts: &Hosts, clients: &Clients, fault: Fault) -> Result<Trial> {
    subject.settled().await?;
    clients.wait_for_writes(&NODES, Instant::now()).await?;
    let primary = primary(subject).await?;
    let survivors: Vec<u8> = NODES.into_iter().filter(|node| *node != primary).collect();
    tokio::time::sleep(Duration::from_millis(rand::random_range(PHASE_MS))).await;
    clients.take();
    let mark = subject.said(primary);
    let struck = Instant::now();
    match fault {
        Fault::Node => subject.kill_node(primary).await?,
        Fault::Postgres => subject.kill_postgres(primary)?,
        Fault::Cut => hosts.isolate(primary),
        Fault::Switchover => subject.switch_over(primary, survivors[0]).await?,
    }
    clients.wait_for_writes(&survivors, Instant::now()).await?;
    // An answer may have been under way: what counts is that writes go on.
    tokio::time::sleep(STEADY).await;
    clients.wait_for_writes(&survivors, Instant::now()).await?;
    let gap = clients.longest_gap(&survivors, struck);
    let slowest = survivors.iter().map(|node| clients.longest_gap(&[*node], struck)).max();
    let repaired = Instant::now();
    let returning_since = match fault {
        Fault::Node => {
            subject.start_node(primary).await?;
            Some(repaired)
        }
        Fault::Cut => {
            hosts.mend();
            Some(repaired)
        }
        Fault::Switchover => Some(struck),
        // It may have been restarted in place.
        Fault::Postgres => None,
    };
    let mut back = None;
    if let Some(since) = returning_since {
        wait_for_standby(subject, primary).await?;
        back = Some((since.elapsed(), subject.way_back(primary, mark)));
    }
    subject.settled().await?;
    clients.wait_for_writes(&NODES, Instant::now()).await?;
    let written = clients.take();
    let mut lost = lost(subject, &written).await?;
    let lost_there = lost.remove(&primary).unwrap_or_default();
    Ok(Trial {
        gap,
        slowest: slowest.unwrap_or_default(),
        back,
        acknowledged: written.len(),
        lost: lost.values().sum(),
        lost_there,
    })
}

/// The node whose own server takes writes.
async fn primary<S: Subject>(subject: &S) -> Result<u8> {
    let found = within(PATIENCE, || async {
        for node in NODES {
            let Ok(client) = open(&subject.way_to(node)).await else {
                continue;
            };
            let asked = client.query_one("SELECT NOT pg_is_in_recovery()", &[]).await;
            if asked.is_ok_and(|row| row.get(0)) {
                return Some(node);
            }
        }
        None
    });
    found.await.context("no node is primary")
}

async fn wait_for_standby<S: Subject>(subject: &S, node: u8) -> Result<()> {
    let sql = "SELECT pg_is_in_recovery() AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')";
    let receives = within(PATIENCE, || async {
        let client = open(&subject.way_to(node)).await.ok()?;
        let row = client.query_one(sql, &[]).await.ok()?;
        row.get::<_, bool>(0).then_some(())
    });
    receives
        .await
        .with_context(|| format!("node{node} did not come back as a standby"))
}

/// All trials of one fault.
#[derive(Default)]
pub struct Trials(Vec<Trial>);

impl Trials {
    /// One more.
    pub fn add(&mut self, trial: Trial) {
        self.0.push(trial);
    }

    fn sample(&self, value: impl Fn(&Trial) -> Option<Duration>) -> Sample {
        let mut sample = Sample::default();
        self.0.iter().filter_map(value).for_each(|time| sample.add(time));
        sample
    }

    fn returns(&self, wanted: Return) -> Sample {
        self.sample(|trial| trial.back.filter(|(_, way)| *way == wanted).map(|(time, _)| time))
    }

    /// Everything, for a file.
    pub fn json(&self) -> Value {
        let seconds = |sample: &Sample| json!({"figures": sample.json(), "s": sample.0});
        let count = |value: fn(&Trial) -> usize| self.0.iter().map(value).sum::<usize>();
        json!({
            "gap": seconds(&self.sample(|trial| Some(trial.gap))),
            "slowest_client": seconds(&self.sample(|trial| Some(trial.slowest))),
            "back_plain": seconds(&self.returns(Return::Plain)),
            "back_rewind": seconds(&self.returns(Return::Rewind)),
            "back_copy": seconds(&self.returns(Return::Copy)),
            "acknowledged": count(|trial| trial.acknowledged),
            "lost": count(|trial| trial.lost),
            "lost_on_the_primarys_side": self.0.iter().map(|trial| trial.lost_there).collect::<Vec<_>>(),
        })
    }

    /// The same in a few lines, for people.
    pub fn show(&self, fault: Fault) {
        let figures = |what: &str, sample: &Sample| {
            if !sample.0.is_empty() {
                eprintln!(
                    "{fault:?}: {what}: p50 {:.3} s, p99 {:.3} s, at most {:.3} s ({} trials)",
                    sample.quantile(0.5),
                    sample.quantile(0.99),
                    sample.quantile(1.0),
                    sample.0.len(),
                );
            }
        };
        figures("no write acknowledged", &self.sample(|trial| Some(trial.gap)));
        figures("the slowest client", &self.sample(|trial| Some(trial.slowest)));
        figures("back by receiving", &self.returns(Return::Plain));
        figures("back by a rewind", &self.returns(Return::Rewind));
        figures("back as a copy", &self.returns(Return::Copy));
        let (lost, there): (usize, usize) = self
            .0
            .iter()
            .fold((0, 0), |sum, trial| (sum.0 + trial.lost, sum.1 + trial.lost_there));
        eprintln!("{fault:?}: {lost} acknowledged writes lost, and {there} of the client on the primary's side");
    }
}
