//! What comes back after crashes and damage, whatever was going on.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use conclave_wal::{Frame, MemoryDisk, Options, OsDisk, Wal, WalError};
use proptest::prelude::*;

const OPTIONS: Options = Options { segment_bytes: 4096 };

fn dir() -> &'static Path {
    Path::new("/log")
}

fn open(disk: &MemoryDisk) -> Result<(Wal, Vec<Frame>), WalError> {
    let mut frames = Vec::new();
    let (wal, _) = Wal::open(Arc::new(disk.clone()), dir(), OPTIONS, &mut |frame| {
        frames.push(frame);
        Ok(())
    })?;
    Ok((wal, frames))
}

fn payloads(frames: &[Frame]) -> Vec<Vec<u8>> {
    frames.iter().map(|frame| frame.payload.clone()).collect()
}

/// splitmix64: the tests' only randomness, from proptest's seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Write,
    Sync,
    Rotate,
    /// Releases segments as far as a reader could, who still wants the last frames.
    Release,
    Crash {
        lose_all: bool,
        seed: u64,
    },
    EndProcess,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..2000).prop_map(Step::Append),
        2 => Just(Step::Write),
        3 => Just(Step::Sync),
        1 => Just(Step::Rotate),
        1 => Just(Step::Release),
        2 => (any::<bool>(), any::<u64>()).prop_map(|(lose_all, seed)| Step::Crash { lose_all, seed }),
        1 => Just(Step::EndProcess),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens, what comes back is a prefix of what was appended, with everything that was acknowledged.
    #[test]
    fn a_prefix_with_all_that_was_acknowledged(steps in prop::collection::vec(step(), 1..60)) {
        let disk = MemoryDisk::default();
        let (mut wal, found) = open(&disk).unwrap();
        prop_assert!(found.is_empty());
        // What is expected, with the segment of each frame; how many of them are acknowledged.
        let mut expected: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut acknowledged = 0;
        let mut count = 0u64;
        for step in steps {
            match step {
                Step::Append(length) => {
                    count += 1;
                    let mut payload = count.to_le_bytes().to_vec();
                    payload.resize(8 + length, (count % 251) as u8);
                    wal.append(1, &payload).unwrap();
                    expected.push((wal.segment(), payload));
                }
                Step::Write => wal.write().unwrap(),
                Step::Sync => {
                    wal.sync().unwrap();
                    acknowledged = expected.len();
                }
                Step::Rotate => {
                    wal.rotate().unwrap();
                    acknowledged = expected.len();
                }
                Step::Release => {
                    let before = wal.first_segment();
                    wal.release_before(wal.segment()).unwrap();
                    let first = wal.first_segment();
                    if first > before {
                        acknowledged = expected.len();
                    }
                    expected.retain(|(segment, _)| *segment >= first);
                    acknowledged = acknowledged.min(expected.len());
                }
                Step::Crash { .. } | Step::EndProcess => {
                    match step {
                        Step::Crash { lose_all, seed } => {
                            let mut random = Random(seed);
                            disk.crash(lose_all, &mut |limit| random.below(limit));
                        }
                        _ => disk.end_process(),
                    }
                    let (again, frames) = open(&disk).unwrap();
                    wal = again;
                    // Nothing but a prefix, and nothing that was acknowledged is missing.
                    let wanted: Vec<Vec<u8>> = expected.iter().map(|(_, payload)| payload.clone()).collect();
                    prop_assert!(frames.len() >= acknowledged, "{} of {acknowledged} came back", frames.len());
                    prop_assert!(frames.len() <= wanted.len());
                    prop_assert_eq!(&payloads(&frames)[..], &wanted[..frames.len()]);
                    expected = frames.into_iter().map(|frame| (frame.segment, frame.payload)).collect();
                    acknowledged = expected.len();
                }
            }
        }
    }

    /// A flipped bit is an error, unless it hits what may be a torn write: the frames of the last epoch.
    #[test]
    fn a_flipped_bit_is_never_a_shorter_log(
        groups in prop::collection::vec(prop::collection::vec(0usize..600, 1..4), 2..12),
        seed in any::<u64>(),
    ) {
        let disk = MemoryDisk::default();
        let (mut wal, _) = open(&disk).unwrap();
        let mut all = Vec::new();
        let mut before_last = 0;
        let mut last_epoch_starts = (1, 32);
        for group in &groups {
            if wal.is_full() {
                wal.rotate().unwrap();
            }
            before_last = all.len();
            last_epoch_starts = (wal.segment(), wal.segment_len());
            for length in group {
                let payload = vec![(all.len() % 256) as u8; *length];
                wal.append(2, &payload).unwrap();
                all.push(payload);
            }
            wal.sync().unwrap();
        }
        let mut random = Random(seed);
        let segment = 1 + random.below(wal.segment());
        let path: PathBuf = dir().join(format!("{segment:020}.wal"));
        let mut place = 0;
        disk.edit(&path, |bytes| {
            place = random.below(bytes.len() as u64);
            bytes[usize::try_from(place).unwrap()] ^= 1 << random.below(8);
        });
        match open(&disk) {
            Err(WalError::Corrupt { .. }) => {}
            Err(other) => prop_assert!(false, "{other}"),
            Ok((_, frames)) => {
                prop_assert!((segment, place) >= last_epoch_starts, "damage at {segment}:{place} was swallowed");
                prop_assert!(frames.len() >= before_last);
                prop_assert_eq!(&payloads(&frames)[..], &all[..frames.len()]);
            }
        }
    }
}

/// The last group is cut at each of its bytes: what was acknowledged before it always comes back.
#[test]
fn a_tail_torn_at_any_byte_gives_the_frames_before_it() {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk).unwrap();
    for payload in [&b"first"[..], b"second"] {
        wal.append(1, payload).unwrap();
    }
    wal.sync().unwrap();
    let safe = wal.segment_len();
    for payload in [&b"third"[..], b"fourth, which is longer"] {
        wal.append(1, payload).unwrap();
    }
    wal.sync().unwrap();
    let end = wal.segment_len();
    let path = dir().join(format!("{:020}.wal", 1));
    let mut whole = Vec::new();
    disk.edit(&path, |bytes| whole = bytes.clone());
    for cut in safe..=end {
        for zeros in [false, true] {
            disk.edit(&path, |bytes| {
                *bytes = whole[..usize::try_from(cut).unwrap()].to_vec();
                if zeros {
                    bytes.resize(whole.len(), 0);
                }
            });
            let (mut wal, frames) = open(&disk).unwrap();
            assert!(frames.len() >= 2 && frames.len() <= 4, "cut at {cut}");
            // It goes on from there, and what is written then comes back too.
            wal.append(9, b"after").unwrap();
            wal.sync().unwrap();
            let (_, again) = open(&disk).unwrap();
            assert_eq!(again.len(), frames.len() + 1, "cut at {cut}");
            assert_eq!(again.last().unwrap().payload, b"after");
        }
    }
}

#[test]
fn a_missing_segment_is_noticed() {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk).unwrap();
    for _ in 0..3 {
        wal.append(1, b"x").unwrap();
        wal.rotate().unwrap();
    }
    use conclave_wal::Disk;
    disk.remove(&dir().join(format!("{:020}.wal", 2))).unwrap();
    assert!(matches!(open(&disk), Err(WalError::Corrupt { .. })));
}

#[test]
fn after_a_failed_write_nothing_is_accepted() {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk).unwrap();
    wal.append(1, b"kept").unwrap();
    wal.sync().unwrap();
    wal.append(1, b"lost").unwrap();
    disk.fail_writes();
    assert!(matches!(wal.sync(), Err(WalError::Io { .. })));
    assert!(matches!(wal.append(1, b"more"), Err(WalError::Poisoned)));
    assert!(matches!(wal.sync(), Err(WalError::Poisoned)));
    disk.crash(true, &mut |_| 0);
    let (_, frames) = open(&disk).unwrap();
    assert_eq!(payloads(&frames), [b"kept".to_vec()]);
}

#[test]
fn one_sync_makes_a_whole_group_durable() {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk).unwrap();
    let before = disk.syncs();
    for number in 0..100u8 {
        wal.append(1, &[number]).unwrap();
    }
    wal.sync().unwrap();
    wal.sync().unwrap();
    assert_eq!(disk.syncs(), before + 1);
}

#[test]
fn it_works_on_a_real_file_system() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let open = || {
        let mut frames = Vec::new();
        let (wal, recovery) = Wal::open(Arc::new(OsDisk), &dir, OPTIONS, &mut |frame| {
            frames.push(frame);
            Ok(())
        })
        .unwrap();
        (wal, frames, recovery)
    };
    let (mut wal, frames, _) = open();
    assert!(frames.is_empty());
    for number in 0..50u8 {
        wal.append(number, &vec![number; 300]).unwrap();
        wal.sync().unwrap();
        if wal.is_full() {
            wal.rotate().unwrap();
        }
    }
    assert!(wal.segment() > 3);
    drop(wal);
    let (mut wal, frames, recovery) = open();
    assert_eq!((frames.len(), recovery.frames, recovery.torn_bytes), (50, 50, 0));
    wal.release_before(3).unwrap();
    drop(wal);
    let (wal, frames, _) = open();
    assert_eq!(wal.first_segment(), 3);
    assert!(frames.iter().all(|frame| frame.segment >= 3) && frames.len() < 50);
}
