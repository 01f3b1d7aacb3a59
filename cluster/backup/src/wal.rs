//! The write-ahead log as files: segments, timelines and their histories. Pure.

use std::collections::BTreeSet;

use conclave_catalog::database::Lsn;

/// As `initdb` makes them.
pub const SEGMENT_BYTES: u64 = 16 << 20;
const PER_HIGH: u64 = (1 << 32) / SEGMENT_BYTES;

/// One segment of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// Where in the log: segments are numbered from 0 whatever their timeline.
    pub number: u64,
    /// The timeline.
    pub timeline: u32,
}

impl Segment {
    /// The segment that holds the byte at `lsn`.
    pub fn holding(timeline: u32, lsn: Lsn) -> Self {
        Self {
            number: lsn.0 / SEGMENT_BYTES,
            timeline,
        }
    }

    /// Reads a file name such as `000000010000000000000003`; `None` for anything else.
    pub fn parse(name: &str) -> Option<Self> {
        let is_hex = |c: char| c.is_ascii_digit() || ('A'..='F').contains(&c);
        if name.len() != 24 || !name.chars().all(is_hex) {
            return None;
        }
        let part = |range: std::ops::Range<usize>| u32::from_str_radix(&name[range], 16).ok();
        let (timeline, high, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
        (u64::from(low) < PER_HIGH).then(|| Self {
            number: u64::from(high) * PER_HIGH + u64::from(low),
            timeline,
        })
    }

    /// Its file name.
    pub fn name(self) -> String {
        let (high, low) = (self.number / PER_HIGH, self.number % PER_HIGH);
        format!("{:08X}{high:08X}{low:08X}", self.timeline)
    }

    /// Where it begins.
    pub fn start(self) -> Lsn {
        Lsn(self.number * SEGMENT_BYTES)
    }

    /// The first byte after it.
    pub fn end(self) -> Lsn {
        Lsn((self.number + 1) * SEGMENT_BYTES)
    }
}

/// The name of a timeline's history file.
pub fn history_name(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

/// The timeline of a history file's name.
pub fn parse_history_name(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".history")?;
    (number.len() == 8)
        .then(|| u32::from_str_radix(number, 16).ok())
        .flatten()
}

/// A timeline, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The timeline.
    pub timeline: u32,
    /// Its ancestors, oldest first, each with the position at which it was left.
    pub ancestors: Vec<(u32, Lsn)>,
}

impl History {
    /// The history of a timeline from the text of its file; the first timeline has none.
    pub fn parse(timeline: u32, text: &str) -> Self {
        let ancestor = |line: &str| {
            let mut fields = line.split_whitespace();
            let number = fields.next()?.parse().ok()?;
            Some((number, fields.next()?.parse().ok()?))
        };
        Self {
            timeline,
            ancestors: text.lines().filter_map(ancestor).collect(),
        }
    }

    /// The timeline whose file holds segment `number` of this history. A segment in which a timeline was left is the new one's:
    /// its file begins with a copy of the old one's.
    pub fn segment(&self, number: u64) -> Segment {
        let end = (number + 1) * SEGMENT_BYTES;
        let left = self.ancestors.iter().find(|(_, at)| end <= at.0);
        Segment {
            number,
            timeline: left.map_or(self.timeline, |(timeline, _)| *timeline),
        }
    }

    /// Whether what lies at `lsn` on `timeline` is in this history.
    pub fn holds(&self, timeline: u32, lsn: Lsn) -> bool {
        let left = self.ancestors.iter().find(|(ancestor, _)| *ancestor == timeline);
        timeline == self.timeline || left.is_some_and(|(_, at)| lsn <= *at)
    }

    /// The last of these segments that is in this history.
    pub fn last_of(&self, segments: &BTreeSet<Segment>) -> Option<Segment> {
        segments
            .iter()
            .rev()
            .find(|segment| self.segment(segment.number) == **segment)
            .copied()
    }

    /// The end of the unbroken run of these segments that begins at `number`; `None` when not even that one is there.
    pub fn run(&self, segments: &BTreeSet<Segment>, number: u64) -> Option<Segment> {
        (number..)
            .map(|number| self.segment(number))
            .take_while(|segment| segments.contains(segment))
            .last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn segments_are_named_as_postgresql_names_them() {
        let segment = Segment::holding(7, Lsn(0x1_0300_0000));
        assert_eq!(segment.name(), "000000070000000100000003");
        assert_eq!(Segment::parse(&segment.name()), Some(segment));
        assert_eq!(segment.start(), Lsn(0x1_0300_0000));
        assert_eq!(segment.end(), Lsn(0x1_0400_0000));
        for other in [
            "000000070000000100000003.partial",
            "00000007.history",
            "0000000700000001000001FF",
            "00000007000000010000000g",
        ] {
            assert_eq!(Segment::parse(other), None, "{other}");
        }
        assert_eq!(parse_history_name(&history_name(18)), Some(18));
    }

    #[test]
    fn each_segment_is_read_from_the_timeline_that_holds_it_whole() {
        let history = History::parse(
            5,
            "1\t0/3000000\tno recovery target specified\n\n3\t0/5800000\tpromoted\n",
        );
        assert_eq!(history.ancestors, [(1, Lsn(48 * MIB)), (3, Lsn(88 * MIB))]);
        let timelines: Vec<u32> = (0..8).map(|number| history.segment(number).timeline).collect();
        // Timeline 1 was left at the border of two segments, timeline 3 in the middle of one.
        assert_eq!(timelines, [1, 1, 1, 3, 3, 5, 5, 5]);
        assert!(history.holds(1, Lsn(48 * MIB)) && !history.holds(1, Lsn(49 * MIB)));
        assert!(history.holds(5, Lsn(900 * MIB)) && !history.holds(4, Lsn(1)));
    }

    #[test]
    fn a_run_ends_where_one_is_missing() {
        let history = History::parse(2, "1\t0/2800000\tpromoted\n");
        let segments: BTreeSet<Segment> = ["1:0", "1:1", "1:2", "2:2", "2:3", "2:5"]
            .iter()
            .map(|text| {
                let (timeline, number) = text.split_once(':').unwrap();
                Segment {
                    number: number.parse().unwrap(),
                    timeline: timeline.parse().unwrap(),
                }
            })
            .collect();
        let number = |segment: Option<Segment>| segment.map(|segment| segment.number);
        assert_eq!(number(history.run(&segments, 0)), Some(3));
        assert_eq!(number(history.run(&segments, 5)), Some(5));
        assert_eq!(number(history.run(&segments, 4)), None);
        assert_eq!(number(history.last_of(&segments)), Some(5));
        let old = History::parse(1, "");
        assert_eq!(number(old.last_of(&segments)), Some(2));
    }
}
