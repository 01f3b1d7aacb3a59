//! What to restore from, what to archive next, and what is needed no longer. Pure.

use std::collections::{BTreeMap, BTreeSet};

use conclave_catalog::database::Lsn;

use crate::BackupError;
use crate::manifest::Manifest;
use crate::wal::{History, SEGMENT_BYTES, Segment};

/// Up to where to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// All that the archive holds.
    Latest,
    /// The commits up to this time, by the primary's clock.
    Time(jiff::Timestamp),
    /// The commits up to this position.
    Lsn(Lsn),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Latest => f.write_str("the latest point"),
            Self::Time(time) => write!(f, "the time {time}"),
            Self::Lsn(lsn) => write!(f, "position {lsn}"),
        }
    }
}

/// What is kept of one database.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// The whole backups, by id: oldest first.
    pub backups: BTreeMap<String, Manifest>,
    /// The archived segments.
    pub segments: BTreeSet<Segment>,
    /// The histories of all timelines that have one.
    pub histories: BTreeMap<u32, History>,
}

/// How to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePlan {
    /// The backup to begin with.
    pub backup: String,
    /// The timeline to end on.
    pub timeline: u32,
    /// The archived segments that are needed on the way.
    pub segments: Vec<Segment>,
    /// The end of the log that is there.
    pub until: Lsn,
    /// The highest number of a timeline that was ever used.
    pub last_timeline: u32,
}

impl Inventory {
    /// The newest timeline: the numbers only grow.
    pub fn last_timeline(&self) -> u32 {
        let histories = self.histories.keys().copied().max();
        let segments = self.segments.iter().map(|segment| segment.timeline).max();
        let backups = self.backups.values().map(|backup| backup.timeline).max();
        histories.max(segments).max(backups).unwrap_or(1)
    }

    /// A timeline with its ancestors; the first one has no file.
    pub fn history(&self, timeline: u32) -> History {
        self.histories
            .get(&timeline)
            .cloned()
            .unwrap_or_else(|| History::parse(timeline, ""))
    }

    /// Up to where the archive goes on from a backup without a break, on the newest timeline that the backup is part of.
    pub fn covered(&self, backup: &Manifest) -> (u32, Lsn) {
        let history = self.line_of(backup);
        let run = history.run(&self.segments, backup.start_lsn.0 / SEGMENT_BYTES);
        let until = run.map_or(backup.end_lsn, |last| last.end().max(backup.end_lsn));
        (history.timeline, until)
    }

    /// The newest timeline that goes on from a backup.
    fn line_of(&self, backup: &Manifest) -> History {
        let newest = self
            .histories
            .values()
            .rev()
            .find(|history| history.holds(backup.timeline, backup.end_lsn));
        newest.cloned().unwrap_or_else(|| self.history(backup.timeline))
    }

    /// How to restore to `target`: from the latest backup that was complete before it, or the one that is named, along the newest
    /// timeline, or the one that is named.
    ///
    /// # Errors
    /// When no backup fits, or log on the way is missing.
    pub fn plan(
        &self,
        target: Target,
        backup: Option<&str>,
        timeline: Option<u32>,
    ) -> Result<RestorePlan, BackupError> {
        let before = |backup: &&Manifest| match target {
            Target::Latest => true,
            Target::Time(time) => backup.ended_at <= time,
            Target::Lsn(lsn) => backup.end_lsn <= lsn,
        };
        let on_line = |backup: &&Manifest| {
            timeline.is_none_or(|timeline| self.history(timeline).holds(backup.timeline, backup.end_lsn))
        };
        let nothing = |why: String| Err(BackupError::Nothing(why));
        let backup = match backup {
            Some(id) => {
                let Some(backup) = self.backups.get(id) else {
                    return nothing(format!(
                        "there is no whole backup {id}: `conclave backup list` shows those that there are"
                    ));
                };
                if !before(&backup) {
                    return nothing(format!(
                        "backup {id} was complete at {} ({}), which is after {target}: choose an earlier one",
                        backup.ended_at, backup.end_lsn
                    ));
                }
                if !on_line(&backup) {
                    return nothing(format!("backup {id} is not part of the timeline that is asked for"));
                }
                backup
            }
            None => match self
                .backups
                .values()
                .rev()
                .find(|backup| before(backup) && on_line(backup))
            {
                Some(backup) => backup,
                None if self.backups.is_empty() => {
                    return nothing("there is no whole backup: make one with `conclave backup create`".to_owned());
                }
                None => {
                    return nothing(format!(
                        "no backup was complete before {target}: `conclave backup list` shows what there is"
                    ));
                }
            },
        };
        let history = timeline.map_or_else(|| self.line_of(backup), |timeline| self.history(timeline));
        let first = backup.start_lsn.0 / SEGMENT_BYTES;
        let run = history.run(&self.segments, first);
        let until = run.map_or(backup.end_lsn, |last| last.end().max(backup.end_lsn));
        // Log beyond a break is of no use. To restore up to the break must be asked for by name.
        let (missing, wanted) = match target {
            Target::Lsn(lsn) => (lsn > until, target.to_string()),
            _ => {
                let last = history.last_of(&self.segments).map_or(until, Segment::end);
                (last > until, target.to_string())
            }
        };
        if missing {
            let segment = history.segment(until.0 / SEGMENT_BYTES);
            return Err(BackupError::MissingLog {
                from: until,
                segment: segment.name(),
                wanted,
            });
        }
        let last = match target {
            Target::Lsn(lsn) => run.map(|run| run.number.min(lsn.0 / SEGMENT_BYTES)),
            _ => run.map(|run| run.number),
        };
        Ok(RestorePlan {
            backup: backup.id.clone(),
            timeline: history.timeline,
            segments: last.map_or_else(Vec::new, |last| {
                (first..=last).map(|number| history.segment(number)).collect()
            }),
            until,
            last_timeline: self.last_timeline(),
        })
    }

    /// What is needed no longer when the newest `keep` backups stay: the other backups' ids, and the segments that no backup that
    /// stays begins at or goes on to. Recovery only goes forward, whatever the timeline.
    pub fn surplus(&self, keep: usize) -> (Vec<String>, Vec<Segment>) {
        let surplus = self.backups.len().saturating_sub(keep);
        let old: Vec<String> = self.backups.keys().take(surplus).cloned().collect();
        let kept = self.backups.values().skip(surplus);
        let Some(needed) = kept.map(|backup| backup.start_lsn.0 / SEGMENT_BYTES).min() else {
            return (old, Vec::new());
        };
        let segments = self.segments.iter().filter(|segment| segment.number < needed);
        (old, segments.copied().collect())
    }
}

/// What the primary has to archive next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Next {
    /// The segment.
    pub(crate) segment: Segment,
    /// The segments that are in neither place any more: the archive has a gap there.
    pub(crate) lost: Option<(u64, u64)>,
}

/// The next whole segment of a primary's log that is not archived. `present`: the segments in its folder; some of them are old
/// ones under new names, of which the log has not reached the number. `flushed`: the end of its log.
pub(crate) fn next(
    history: &History,
    archived: Option<Segment>,
    present: &BTreeSet<Segment>,
    flushed: Lsn,
) -> Option<Next> {
    let is_ours = |segment: &&Segment| history.segment(segment.number) == **segment && segment.end() <= flushed;
    let wanted = archived.map(|last| last.number + 1);
    let segment = present
        .iter()
        .filter(is_ours)
        .find(|segment| wanted.is_none_or(|wanted| segment.number >= wanted))?;
    let lost = wanted
        .filter(|wanted| *wanted < segment.number)
        .map(|wanted| (wanted, segment.number - 1));
    Some(Next {
        segment: *segment,
        lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::VERSION;

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(second).unwrap()
    }

    fn lsn(segment: u64, offset: u64) -> Lsn {
        Lsn(segment * SEGMENT_BYTES + offset)
    }

    fn backup(id: &str, timeline: u32, segment: u64, ended: i64) -> (String, Manifest) {
        let manifest = Manifest {
            version: VERSION,
            id: id.into(),
            system_id: "7".into(),
            cluster_id: "c".into(),
            made_by: "node1".into(),
            postgres_version: "15".into(),
            began_at: at(ended - 1),
            ended_at: at(ended),
            timeline,
            start_lsn: lsn(segment, 40),
            end_lsn: lsn(segment, 400),
            bytes: 1,
            parts: Vec::new(),
        };
        (id.into(), manifest)
    }

    fn segments(runs: &[(u32, std::ops::Range<u64>)]) -> BTreeSet<Segment> {
        let of = |(timeline, numbers): &(u32, std::ops::Range<u64>)| {
            let timeline = *timeline;
            numbers.clone().map(move |number| Segment { number, timeline })
        };
        runs.iter().flat_map(of).collect()
    }

    /// Timeline 3 left timeline 1 in the middle of segment 6.
    fn inventory() -> Inventory {
        let text = format!("1\t{}\tpromoted\n", lsn(6, 99));
        Inventory {
            backups: BTreeMap::from([backup("a", 1, 2, 100), backup("b", 1, 4, 200), backup("c", 3, 8, 300)]),
            segments: segments(&[(1, 1..7), (3, 6..11)]),
            histories: BTreeMap::from([(3, History::parse(3, &text))]),
        }
    }

    #[test]
    fn the_latest_backup_before_the_point_is_taken() {
        let inventory = inventory();
        let plan = |target| inventory.plan(target, None, None).unwrap();
        let latest = plan(Target::Latest);
        assert_eq!((latest.backup.as_str(), latest.timeline), ("c", 3));
        assert_eq!(latest.until, lsn(11, 0));
        let earlier = plan(Target::Time(at(250)));
        assert_eq!((earlier.backup.as_str(), earlier.timeline), ("b", 3));
        let timelines: Vec<u32> = earlier.segments.iter().map(|segment| segment.timeline).collect();
        assert_eq!(timelines, [1, 1, 3, 3, 3, 3, 3], "segments 4 and 5, then 6 to 10");
        let early = plan(Target::Lsn(lsn(3, 7)));
        assert_eq!(early.backup, "a");
        assert_eq!(early.segments, Vec::from_iter(segments(&[(1, 2..4)])));
        assert_eq!(early.last_timeline, 3);
    }

    #[test]
    fn the_future_that_was_given_up_can_still_be_reached() {
        let plan = inventory().plan(Target::Latest, None, Some(1)).unwrap();
        assert_eq!((plan.backup.as_str(), plan.timeline, plan.until), ("b", 1, lsn(7, 0)));
        let error = inventory().plan(Target::Latest, Some("c"), Some(1)).unwrap_err();
        assert!(error.to_string().contains("not part of the timeline"), "{error}");
    }

    #[test]
    fn what_cannot_be_restored_is_said_with_what_can() {
        let mut inventory = inventory();
        let none = inventory.plan(Target::Time(at(50)), None, None).unwrap_err();
        assert!(none.to_string().contains("no backup was complete before"), "{none}");
        inventory.segments.remove(&Segment { number: 9, timeline: 3 });
        let gap = inventory.plan(Target::Latest, None, None).unwrap_err();
        assert!(gap.to_string().contains("--to-lsn 0/9000000"), "{gap}");
        assert!(inventory.plan(Target::Lsn(lsn(9, 0)), None, None).is_ok());
        assert!(inventory.plan(Target::Lsn(lsn(9, 1)), None, None).is_err());
        // A backup is whole without the archive.
        inventory.segments.clear();
        let alone = inventory.plan(Target::Latest, Some("a"), None).unwrap();
        assert_eq!((alone.segments.len(), alone.until), (0, lsn(2, 400)));
    }

    #[test]
    fn retention_removes_only_what_no_kept_backup_needs() {
        let inventory = inventory();
        let (old, segments) = inventory.surplus(2);
        assert_eq!(old, ["a"]);
        assert_eq!(
            segments.iter().map(|segment| segment.number).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        assert_eq!(inventory.surplus(3).0.len(), 0);
        assert_eq!(inventory.surplus(3).1.len(), 1, "segment 1 is before the first backup");
        assert_eq!(
            inventory.surplus(0).1.len(),
            0,
            "without a backup nothing says what is needed"
        );
    }

    #[test]
    fn the_archive_goes_on_where_it_ended_and_notices_gaps() {
        let history = History::parse(3, &format!("1\t{}\tpromoted\n", lsn(6, 99)));
        // 20 is an old file under a new name.
        let present = segments(&[(1, 4..7), (3, 6..9), (3, 20..21)]);
        let after = |number| (number > 0).then(|| history.segment(number));
        let take = |number| next(&history, after(number), &present, lsn(8, 5));
        assert_eq!(take(0).unwrap().segment, Segment { number: 4, timeline: 1 });
        assert_eq!(take(5).unwrap().segment, Segment { number: 6, timeline: 3 });
        assert_eq!(take(7), None, "segment 8 is not whole yet");
        let gap = take(1).unwrap();
        assert_eq!((gap.segment.number, gap.lost), (4, Some((2, 3))));
    }
}
