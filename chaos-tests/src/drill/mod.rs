//! Faults of a cluster under load, one after the other: what each does, and what must be true once it is over.

mod fault;
mod network;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use conclave_localcluster::{Signal, TrackedProcess};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::frozen::Frozen;
use crate::hosts::Hosts;
use crate::ledger::{Access, Ledger};
use crate::{TestCluster, clocks, within};
pub use fault::{ALL, Fault, OF_FIVE, SELECTION};

/// How long writes may be away. The goals are far below; a busy machine that runs debug builds gets time.
const WRITES: Duration = Duration::from_secs(40);
/// How long a cluster may take to be as it was, once a fault is over.
const HEALED: Duration = Duration::from_secs(120);
/// Disks hold what PostgreSQL keeps for standbys, and a database.
pub const DISK_MEBIBYTES: u32 = 1500;
/// More segments of its log than a PostgreSQL keeps for later use.
const NOISE_UNTIL_FULL: u32 = 80;
/// As many as make a standby need space, and leave the primary some.
const NOISE_FOR_STANDBY: u32 = 20;
/// What the clients write in the moments between two looks.
const LAG_MAX_BYTES: i64 = 4 << 20;
/// Clocks jump by so many seconds.
const HOUR: i64 = 3600;
/// A statement that takes longer is stuck.
const STEP: Duration = Duration::from_secs(4);

/// A pause goes on for so many milliseconds after writes have moved elsewhere.
const SECONDS: Range<u64> = 500..6000;
/// The same of a long one.
const MINUTE: Range<u64> = 55_000..60_000;
/// Between two looks at whether a candidate has been promoted.
const LOOK: Duration = Duration::from_millis(1);

/// A cluster under load that things happen to.
pub struct Drill {
    ledger: Ledger,
    random: Mutex<StdRng>,
    /// Goes before the cluster, which cannot be stopped while something of it is frozen.
    frozen: Mutex<Frozen>,
    test: TestCluster,
    hosts: Hosts,
}

/// Runs these faults on a new cluster of so many nodes, in an order that the seed gives: `CONCLAVE_CHAOS_SEED`, or one that is printed.
/// `CONCLAVE_CHAOS_FAULTS=KillNode,Flap` runs those instead, in that order.
///
/// # Panics
/// When something is not as it must be.
pub fn run(nodes: u8, faults: &[Fault]) {
    let Some(hosts) = Hosts::new(nodes) else { return };
    let asked = std::env::var("CONCLAVE_CHAOS_SEED").ok();
    let seed = asked.map_or_else(rand::random, |text| text.parse().expect("the seed is a number"));
    let mut random = StdRng::seed_from_u64(seed);
    let mut faults = faults.to_vec();
    faults.shuffle(&mut random);
    if let Ok(names) = std::env::var("CONCLAVE_CHAOS_FAULTS") {
        let find = |name: &str| {
            ALL.into_iter()
                .chain(OF_FIVE)
                .find(|fault| format!("{fault:?}") == name)
        };
        let named = names.split(',').map(|name| find(name).expect("a fault of that name"));
        faults = named.collect();
    }
    eprintln!("CONCLAVE_CHAOS_SEED={seed}: {faults:?}");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let test = TestCluster::on(&hosts, DISK_MEBIBYTES).await;
        let ledger = Ledger::open(Access::new(&test.cluster)).await;
        let mut drill = Drill {
            ledger,
            random: Mutex::new(random),
            frozen: Mutex::default(),
            test,
            hosts,
        };
        for fault in faults {
            if let Err(why) = drill.play(fault).await {
                drill.resume();
                drill
                    .test
                    .fail(&format!("CONCLAVE_CHAOS_SEED={seed}: {fault:?}: {why}"));
            }
        }
        if let Err(why) = drill.ledger.close().await {
            drill
                .test
                .fail(&format!("CONCLAVE_CHAOS_SEED={seed}: at the end: {why}"));
        }
        eprintln!("{}", drill.ledger.summary());
    });
}

impl Drill {
    async fn play(&self, fault: Fault) -> Result<(), String> {
        let primary = self.primary().await?;
        let (begun, started) = (Instant::now(), Instant::now());
        self.strike(fault, primary).await?;
        let over = Instant::now();
        let gap = self.ledger.longest_gap(started);
        self.heal().await?;
        self.settled(over).await?;
        let next = self.primary().await?;
        eprintln!(
            "{fault:?} of node{primary}: {} ms without an answer to anybody, over after {:.1} s, healed after {:.1} s, \
             node{next} is primary",
            gap.as_millis(),
            over.duration_since(begun).as_secs_f64(),
            over.elapsed().as_secs_f64(),
        );
        self.ledger.check().await?;
        if fault.deposes() && next == primary {
            return Err(format!("node{primary} is primary still"));
        }
        Ok(())
    }

    /// Does it, and waits until writes go on wherever they must.
    async fn strike(&self, fault: Fault, primary: u8) -> Result<(), String> {
        let cluster = &self.test.cluster;
        let others = self.others(primary);
        let standby = others[0];
        let (nodes, survivors) = (self.nodes(), others.clone());
        let but = |away: u8| -> Vec<u8> { nodes.iter().copied().filter(|number| *number != away).collect() };
        match fault {
            Fault::KillPostgres => {
                kill(cluster.postmaster(primary)).await;
                self.writes(&nodes).await
            }
            Fault::KillManager => {
                kill(cluster.manager(primary)).await;
                self.writes(&survivors).await
            }
            Fault::KillNode => {
                self.kill_node(primary).await;
                self.writes(&survivors).await
            }
            Fault::KillStandby => {
                self.kill_node(standby).await;
                self.writes(&but(standby)).await
            }
            Fault::KillAll => {
                futures::future::join_all(nodes.iter().map(|number| self.kill_node(*number))).await;
                self.heal().await?;
                self.writes(&nodes).await
            }
            Fault::KillSuccessor => {
                self.kill_node(primary).await;
                self.writes(&survivors).await?;
                let successor = self.primary().await?;
                self.kill_node(successor).await;
                self.start(primary).await?;
                self.writes(&but(successor)).await
            }
            Fault::KillTwo => {
                self.kill_node(primary).await;
                self.writes(&survivors).await?;
                let successor = self.primary().await?;
                self.kill_node(successor).await;
                let left: Vec<u8> = survivors.into_iter().filter(|number| *number != successor).collect();
                self.writes(&left).await
            }
            Fault::KillSuccessorPostgres => {
                kill(cluster.postmaster(primary)).await;
                self.writes(&survivors).await?;
                kill(cluster.postmaster(self.primary().await?)).await;
                self.writes(&nodes).await
            }
            Fault::KillCandidate => {
                let candidate = self.kill_until_promoted(primary, &survivors).await?;
                self.kill_node(candidate).await;
                self.start(primary).await?;
                self.writes(&but(candidate)).await
            }
            Fault::PauseManager | Fault::PauseManagerForLong => {
                self.stop(cluster.manager(primary));
                self.writes(&survivors).await?;
                self.hold(if fault == Fault::PauseManager { SECONDS } else { MINUTE })
                    .await;
                self.resume();
                Ok(())
            }
            Fault::PauseNode => {
                self.stop(cluster.manager(primary));
                self.stop_postgres(primary);
                self.writes(&survivors).await?;
                self.hold(SECONDS).await;
                self.resume();
                Ok(())
            }
            Fault::BlinkManager => {
                self.stop(cluster.manager(primary));
                self.hold(50..900).await;
                self.resume();
                self.writes(&nodes).await
            }
            Fault::PauseStandbyManager => {
                self.stop(cluster.manager(standby));
                self.writes(&but(standby)).await?;
                self.hold(SECONDS).await;
                self.resume();
                Ok(())
            }
            Fault::PausePostgres | Fault::PausePostgresForLong => {
                self.stop_postgres(primary);
                self.writes(&nodes).await?;
                self.hold(if fault == Fault::PausePostgres { SECONDS } else { MINUTE })
                    .await;
                self.resume();
                Ok(())
            }
            Fault::PauseStandbyPostgres => {
                self.stop_postgres(standby);
                self.writes(&nodes).await?;
                self.hold(SECONDS).await;
                self.resume();
                Ok(())
            }
            Fault::WipeStandby | Fault::DamageStandby => {
                self.kill_node(standby).await;
                let data = cluster.node(standby).data_dir.join("postgres/data");
                let done = if fault == Fault::WipeStandby {
                    std::fs::remove_dir_all(&data)
                } else {
                    std::fs::write(data.join("global/pg_control"), [0; 8192])
                };
                done.map_err(|error| error.to_string())?;
                self.writes(&but(standby)).await
            }
            Fault::FillDisk => {
                let filler = self.fill(primary)?;
                self.use_log(NOISE_UNTIL_FULL).await;
                self.writes(&survivors).await?;
                self.hold(500..3000).await;
                std::fs::remove_file(filler).map_err(|error| error.to_string())
            }
            Fault::FillStandbyDisk => {
                let filler = self.fill(standby)?;
                self.use_log(NOISE_FOR_STANDBY).await;
                self.writes(&but(standby)).await?;
                self.hold(500..3000).await;
                std::fs::remove_file(filler).map_err(|error| error.to_string())
            }
            Fault::ClockAhead => self.shift_clock(primary, HOUR).await,
            Fault::ClockBehind => self.shift_clock(primary, -HOUR).await,
            Fault::StandbyClockAhead => self.shift_clock(standby, HOUR).await,
            Fault::Switchover => self.switch_over(standby).await,
            _ => self.break_network(fault, primary, &others).await,
        }
    }

    /// All that outside help does: what has ended is started, as a service manager would.
    async fn heal(&self) -> Result<(), String> {
        for number in self.nodes() {
            self.start(number).await?;
        }
        Ok(())
    }

    async fn kill_node(&self, number: u8) {
        let cluster = &self.test.cluster;
        let manager = cluster.manager(number);
        cluster.kill(number);
        if let Some(manager) = manager {
            manager.wait_end(HEALED).await;
        }
    }

    /// Kills the primary's node; the one whose database leaves recovery then, as soon as it has.
    async fn kill_until_promoted(&self, primary: u8, survivors: &[u8]) -> Result<u8, String> {
        let access = self.ledger.access();
        let mut standbys = Vec::new();
        for number in survivors {
            let client = access.locally(*number).await.map_err(|error| error.to_string())?;
            standbys.push((*number, client));
        }
        self.kill_node(primary).await;
        let promoted = tokio::time::timeout(WRITES, async {
            loop {
                for (number, client) in &standbys {
                    let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await;
                    if !row
                        .map_err(|error| format!("node{number} cannot be asked: {error}"))?
                        .get::<_, bool>(0)
                    {
                        return Ok(*number);
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        promoted.await.map_err(|_| "no standby was promoted".to_owned())?
    }

    async fn start(&self, number: u8) -> Result<(), String> {
        self.test
            .cluster
            .start(number)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// All nodes are well and say so, one of them is primary, the others receive from it, and everybody's clients write.
    async fn settled(&self, since: Instant) -> Result<(), String> {
        for number in self.nodes() {
            let healthy = self.test.cluster.wait_healthy(number, HEALED).await;
            healthy.map_err(|error| format!("node{number} does not see all well: {error}"))?;
        }
        let access = self.ledger.access();
        // With what the standbys hold: one that is far behind is well, and would make the next failover wait for it.
        let sql = "SELECT pg_is_in_recovery(), EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'),
            pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                ELSE pg_current_wal_flush_lsn() END, '0/0')::bigint";
        let fit = within(HEALED, || async {
            let (mut roles, mut ends) = (BTreeMap::new(), Vec::new());
            for number in self.nodes() {
                let row = access.locally(number).await.ok()?.query_one(sql, &[]).await.ok()?;
                let role: (bool, bool) = (row.get(0), row.get(1));
                *roles.entry(role).or_insert(0) += 1;
                ends.push(row.get::<_, Option<i64>>(2)?);
            }
            let lag = ends.iter().max()?.saturating_sub(*ends.iter().min()?);
            let fits = roles == BTreeMap::from([((false, false), 1), ((true, true), self.nodes().len() - 1)]);
            (fits && lag < LAG_MAX_BYTES).then_some(())
        });
        fit.await
            .ok_or("there are not one primary and standbys that all receive and are close")?;
        self.ledger.wait_for_writes(&self.nodes(), since, WRITES).await
    }

    async fn writes(&self, nodes: &[u8]) -> Result<(), String> {
        self.ledger.wait_for_writes(nodes, Instant::now(), WRITES).await
    }

    /// The primary of the rule in force, by any node that knows.
    async fn primary(&self) -> Result<u8, String> {
        let found = within(WRITES, || async {
            for number in self.nodes() {
                let status = self.test.client(number).get_status("/v1/cluster/status").await;
                let Ok(status) = status else { continue };
                let id = status["database"]["primary"].as_u64();
                if let (Some(id), Some(false)) = (id, status["minority"].as_bool()) {
                    return u8::try_from(id).ok();
                }
            }
            None
        });
        found.await.ok_or_else(|| "no node knows a primary".to_owned())
    }

    fn nodes(&self) -> Vec<u8> {
        self.ledger.access().numbers()
    }

    /// The others, in an order that the seed gives.
    fn others(&self, node: u8) -> Vec<u8> {
        let mut others = self.nodes();
        others.retain(|other| *other != node);
        others.shuffle(&mut *self.random());
        others
    }

    fn random(&self) -> std::sync::MutexGuard<'_, StdRng> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fault lasts for some milliseconds more.
    async fn hold(&self, range: Range<u64>) {
        let time = self.random().random_range(range);
        tokio::time::sleep(Duration::from_millis(time)).await;
    }

    fn frozen(&self) -> std::sync::MutexGuard<'_, Frozen> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, manager: Option<TrackedProcess>) {
        manager.into_iter().for_each(|process| self.frozen().freeze(process));
    }

    fn stop_postgres(&self, number: u8) {
        let postmaster = self.test.cluster.postmaster(number);
        postmaster
            .into_iter()
            .for_each(|process| self.frozen().freeze_postgres(process));
    }

    fn resume(&self) {
        self.frozen().resume();
    }

    /// A clock that jumps is no reason for anything: who writes through whichever node goes on.
    async fn shift_clock(&self, number: u8, seconds: i64) -> Result<(), String> {
        let node = self.test.cluster.layout().node(number).dir;
        for shift in [seconds, 0] {
            clocks::set(&node, shift).map_err(|error| error.to_string())?;
            self.clock_is(number, shift).await?;
            self.hold(500..5000).await;
            self.writes(&self.nodes()).await?;
        }
        Ok(())
    }

    /// Waits until a node's server tells the time that it is to tell.
    async fn clock_is(&self, number: u8, shift: i64) -> Result<(), String> {
        let other = self.others(number)[0];
        let access = self.ledger.access();
        let time = |number: u8| async move {
            let sql = "SELECT extract(epoch FROM clock_timestamp())::bigint";
            let row = access.locally(number).await.ok()?.query_one(sql, &[]).await.ok()?;
            Some(row.get::<_, i64>(0))
        };
        let set = within(WRITES, || async {
            let ahead = time(number).await? - time(other).await?;
            ((ahead - shift).abs() < HOUR / 2).then_some(())
        });
        set.await
            .ok_or_else(|| "the clock does not move: is Debian's libfaketime installed?".to_owned())
    }

    /// What is under way is finished, and what comes waits: no statement is without an answer.
    async fn switch_over(&self, to: u8) -> Result<(), String> {
        let (before, _) = self.ledger.unknown();
        let test = &self.test;
        let name = format!("node{to}");
        tokio::task::block_in_place(|| test.conclave(to, &["cluster", "set-active", &name]))?;
        self.writes(&self.nodes()).await?;
        let (after, last) = self.ledger.unknown();
        if after == before {
            return Ok(());
        }
        let count = after - before;
        Err(format!(
            "{count} statements were left without an answer by a planned change: {last}"
        ))
    }

    /// Makes the primary begin so many segments of its log, or as many as it can: those that it keeps for later use need no space.
    async fn use_log(&self, segments: u32) {
        // No table, which would need space of its own.
        let noise = "SELECT pg_logical_emit_message(false, 'noise', 'noise')";
        for number in self.nodes() {
            let Ok(client) = self.ledger.access().through(number).await else {
                continue;
            };
            for _ in 0..segments {
                let step = async {
                    client.batch_execute(noise).await?;
                    client.batch_execute("SELECT pg_switch_wal()").await
                };
                if !matches!(tokio::time::timeout(STEP, step).await, Ok(Ok(()))) {
                    return;
                }
            }
            return;
        }
    }

    /// Takes all the space that is left on a node's disk; the file that holds it.
    fn fill(&self, number: u8) -> Result<std::path::PathBuf, String> {
        let path = self.test.cluster.node(number).data_dir.join("filler");
        let mut file = std::fs::File::create(&path).map_err(|error| error.to_string())?;
        let block = vec![7; 1 << 20];
        let small = [7; 512];
        while file.write_all(&block).is_ok() {}
        while file.write_all(&small).is_ok() {}
        Ok(path)
    }
}

/// Returns when it has ended: who looked whether it has to be started would find it running else.
async fn kill(process: Option<TrackedProcess>) {
    if let Some(process) = process {
        process.signal(Signal::SIGKILL);
        process.wait_end(HEALED).await;
    }
}
