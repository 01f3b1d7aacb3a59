//! The log store against openraft's own suite, and across restarts.

use super::*;
use std::path::PathBuf;

use conclave_wal::{MemoryDisk, OsDisk};
use openraft::storage::RaftLogStorageExt;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};

use crate::offload::Offload;
use crate::packed::Packed;
use crate::snapshot::SnapshotStore;
use crate::state_machine::StateMachine;

struct OnDisk;

impl StoreBuilder<Group, LogStore, StateMachine, tempfile::TempDir> for OnDisk {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<Group>> {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let (snapshots, current) = SnapshotStore::open(Arc::clone(&disk), dir.path(), false).unwrap();
        // Small segments: the suite crosses their borders.
        let options = Options { segment_bytes: 512 };
        let (log, writer) = LogStore::open(disk, &dir.path().join("log"), options).unwrap();
        writer.run_on_thread().unwrap();
        let (machine, _) = StateMachine::new(snapshots, current, Offload::Threads, Spent::default());
        Ok((dir, log, machine))
    }
}

#[tokio::test]
async fn openrafts_suite() {
    Suite::test_all(OnDisk).await.unwrap();
}

fn open(disk: &MemoryDisk) -> LogStore {
    let options = Options { segment_bytes: 2048 };
    let (log, writer) = LogStore::open(Arc::new(disk.clone()), &PathBuf::from("/log"), options).unwrap();
    writer.run_on_thread().unwrap();
    log
}

fn entry(term: u64, index: u64, size: usize) -> Entry {
    Entry {
        log_id: crate::wire::log_id_in(conclave_proto::consensus::LogId { term, index }),
        payload: EntryPayload::Normal(Packed(vec![7; size].into())),
    }
}

async fn all(log: &mut LogStore) -> Vec<Entry> {
    log.try_get_log_entries(..).await.unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_power_cut() {
    let disk = MemoryDisk::default();
    let mut log = open(&disk);
    let vote = Vote::new_committed(3, 1);
    log.save_vote(&vote).await.unwrap();
    let entries: Vec<Entry> = (0..40).map(|index| entry(3, index, 200)).collect();
    log.blocking_append(entries.clone()).await.unwrap();
    log.truncate_after(Some(entries[29].log_id)).await.unwrap();
    log.blocking_append([entry(4, 30, 10)]).await.unwrap();
    log.purge(entries[9].log_id).await.unwrap();
    disk.crash(true, &mut |_| 0);
    let mut log = open(&disk);
    let mut wanted: Vec<Entry> = entries[..30].to_vec();
    wanted.push(entry(4, 30, 10));
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    let found = all(&mut log).await;
    // The purge itself may be lost; then more is there, not less.
    assert!(found.ends_with(&wanted[10..]), "{} entries", found.len());
}

#[tokio::test]
async fn purged_segments_go_and_the_vote_stays() {
    let disk = MemoryDisk::default();
    let mut log = open(&disk);
    log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    for index in 0..100 {
        log.blocking_append([entry(1, index, 100)]).await.unwrap();
    }
    let names = || disk.list(std::path::Path::new("/log")).unwrap().len();
    let before = names();
    log.purge(entry(1, 95, 0).log_id).await.unwrap();
    assert!(before > 5 && names() <= 2, "{before} segments, then {}", names());
    drop(log);
    let mut log = open(&disk);
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(1, 1)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(entry(1, 95, 0).log_id));
    assert_eq!(all(&mut log).await.len(), 4);
}

#[tokio::test]
async fn a_read_for_an_append_is_bounded_and_never_empty() {
    let disk = MemoryDisk::default();
    let mut log = open(&disk);
    let large = APPEND_BYTES + 1;
    log.blocking_append([entry(1, 0, large), entry(1, 1, 10), entry(1, 2, large)])
        .await
        .unwrap();
    assert_eq!(log.limited_get_log_entries(0, 3).await.unwrap().len(), 1);
    assert_eq!(log.limited_get_log_entries(1, 3).await.unwrap().len(), 2);
    assert_eq!(log.limited_get_log_entries(2, 3).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_read_for_an_append_has_no_hole_in_front() {
    let disk = MemoryDisk::default();
    let mut log = open(&disk);
    let entries: Vec<Entry> = (0..10).map(|index| entry(1, index, 10)).collect();
    log.blocking_append(entries.clone()).await.unwrap();
    log.purge(entries[5].log_id).await.unwrap();
    assert_eq!(log.limited_get_log_entries(6, 10).await.unwrap(), entries[6..]);
    assert!(log.limited_get_log_entries(4, 10).await.unwrap().is_empty());
}
