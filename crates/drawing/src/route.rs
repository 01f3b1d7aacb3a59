//! The ways of arrows.

use std::fmt::Write;

use super::layout::{Layout, Rect};
use super::tree::Tree;

/// How far arrows end from each other on a side of a box at most.
const SPACING_MAX: f64 = 16.0;

/// A side of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Top,
    Bottom,
    Left,
    Right,
}

#[derive(Debug, Clone, Copy)]
struct End {
    side: Side,
    /// Where the arrow comes from or leads to, along the side: ends are sorted by it.
    towards: f64,
    at: (f64, f64),
}

/// The ways of all arrows as the `d` of paths; nothing for an arrow that has none.
pub(crate) fn paths(tree: &Tree, layout: &Layout) -> Vec<String> {
    let mut ends: Vec<[End; 2]> = tree
        .arrows
        .iter()
        .zip(&layout.points)
        .map(|(arrow, points)| {
            let (source, target) = (layout.boxes[arrow.source], layout.boxes[arrow.target]);
            let first = points.first().copied().unwrap_or((target.middle(), middle_of(&target)));
            let last = points.last().copied().unwrap_or((source.middle(), middle_of(&source)));
            [end(&source, &target, first), end(&target, &source, last)]
        })
        .collect();
    spread(tree, layout, &mut ends);
    ends.iter()
        .zip(&layout.points)
        .map(|(ends, points)| path(ends, points))
        .collect()
}

fn middle_of(rect: &Rect) -> f64 {
    rect.y + rect.height / 2.0
}

/// The side of `own` that faces the other box: above or below it where they do not overlap in height.
fn end(own: &Rect, other: &Rect, towards: (f64, f64)) -> End {
    let side = if other.y >= own.bottom() || (own.y <= other.y && other.bottom() <= own.bottom()) {
        // Below, or inside: then from the bottom line inwards.
        Side::Bottom
    } else if other.bottom() <= own.y || (other.y <= own.y && own.bottom() <= other.bottom()) {
        Side::Top
    } else if other.x >= own.right() {
        Side::Right
    } else {
        Side::Left
    };
    let along = if matches!(side, Side::Top | Side::Bottom) {
        towards.0
    } else {
        towards.1
    };
    End {
        side,
        towards: along,
        at: (0.0, 0.0),
    }
}

/// Gives every end its own place on its side, in the order of where the arrows go.
fn spread(tree: &Tree, layout: &Layout, ends: &mut [[End; 2]]) {
    let mut by_side: Vec<(usize, Side, f64, usize, usize)> = Vec::with_capacity(ends.len() * 2);
    for (index, (arrow, pair)) in tree.arrows.iter().zip(ends.iter()).enumerate() {
        for (which, id) in [arrow.source, arrow.target].into_iter().enumerate() {
            by_side.push((id, pair[which].side, pair[which].towards, index, which));
        }
    }
    by_side.sort_by(|left, right| {
        (left.0, left.1)
            .cmp(&(right.0, right.1))
            .then(left.2.total_cmp(&right.2))
    });
    for group in by_side.chunk_by(|left, right| (left.0, left.1) == (right.0, right.1)) {
        let Some((id, side, ..)) = group.first().copied() else {
            continue;
        };
        let rect = layout.boxes[id];
        let (start, length) = match side {
            Side::Top | Side::Bottom => (rect.x, rect.width),
            Side::Left | Side::Right => (rect.y, rect.height),
        };
        let spacing = (length * 0.8 / group.len() as f64).min(SPACING_MAX);
        let first = start + length / 2.0 - spacing * (group.len() - 1) as f64 / 2.0;
        for (place, (.., index, which)) in group.iter().enumerate() {
            let along = first + spacing * place as f64;
            ends[*index][*which].at = match side {
                Side::Top => (along, rect.y),
                Side::Bottom => (along, rect.bottom()),
                Side::Left => (rect.x, along),
                Side::Right => (rect.right(), along),
            };
        }
    }
}

/// A point a way out from an end, in the direction that its side faces.
fn outside(end: &End, distance: f64) -> (f64, f64) {
    let (x, y) = end.at;
    match end.side {
        Side::Top => (x, y - distance),
        Side::Bottom => (x, y + distance),
        Side::Left => (x - distance, y),
        Side::Right => (x + distance, y),
    }
}

/// A curve from end to end, through the points between.
fn path(ends: &[End; 2], points: &[(f64, f64)]) -> String {
    let mut d = String::new();
    let (start, finish) = (ends[0].at, ends[1].at);
    let _ = write!(d, "M{:.1} {:.1}", start.0, start.1);
    let mut current = start;
    let reach = |from: (f64, f64), to: (f64, f64)| {
        ((to.1 - from.1).abs().max((to.0 - from.0).abs() * 0.35) * 0.5).clamp(12.0, 90.0)
    };
    let mut leave: Option<(f64, f64)> = None;
    let stops = points
        .iter()
        .copied()
        .map(|point| (point, None))
        .chain([(finish, Some(&ends[1]))]);
    for (stop, end) in stops {
        let distance = reach(current, stop);
        let down = if stop.1 >= current.1 { distance } else { -distance };
        let first = leave.unwrap_or_else(|| outside(&ends[0], distance));
        let second = match end {
            Some(end) => outside(end, distance),
            None => (stop.0, stop.1 - down),
        };
        let _ = write!(
            d,
            "C{:.1} {:.1} {:.1} {:.1} {:.1} {:.1}",
            first.0, first.1, second.0, second.1, stop.0, stop.1
        );
        current = stop;
        leave = Some((stop.0, stop.1 + down));
    }
    d
}
