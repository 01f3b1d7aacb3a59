//! The order of siblings: in layers, so that arrows lead down, and within the layers so that few of them cross.

use rustc_hash::FxHashMap as HashMap;

/// How often the layers are gone through to bring connected siblings near each other.
const SWEEPS: usize = 6;
/// Arrows that pass through layers get places there, unless they are so many that nobody could follow them anyway.
const PASSES_MAX: usize = 20_000;

/// What stands at a place of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// A sibling, by its position among them.
    Item(usize),
    /// Where an arrow, by its position, passes through the layer.
    Pass(usize),
}

/// Siblings in layers.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    pub(crate) rows: Vec<Vec<Slot>>,
    /// By arrow: its way through the layers, as layer and place, from the source's side to the target's.
    pub(crate) passes: Vec<Vec<(usize, usize)>>,
}

/// Arranges `count` siblings with arrows between them; siblings without arrows are left out.
pub(crate) fn arrange(count: usize, arrows: &[(usize, usize)]) -> Layers {
    let levels = levels(count, arrows);
    let mut connected = vec![false; count];
    for (source, target) in arrows {
        connected[*source] = true;
        connected[*target] = true;
    }
    let height = levels
        .iter()
        .zip(&connected)
        .filter(|(_, connected)| **connected)
        .map(|(level, _)| level + 1)
        .max();
    let mut rows: Vec<Vec<Slot>> = vec![Vec::new(); height.unwrap_or(0)];
    for item in (0..count).filter(|item| connected[*item]) {
        rows[levels[item]].push(Slot::Item(item));
    }
    // Neighbours of every slot in the layer above and below, passes included.
    let mut links: Vec<(Slot, Slot)> = Vec::new();
    let length = |(source, target): &(usize, usize)| levels[*source].abs_diff(levels[*target]).saturating_sub(1);
    let few = arrows.iter().map(length).sum::<usize>() <= PASSES_MAX;
    for (index, (source, target)) in arrows.iter().enumerate() {
        if !few && levels[*source].abs_diff(levels[*target]) > 1 {
            continue;
        }
        let (top, bottom) = if levels[*source] <= levels[*target] {
            (*source, *target)
        } else {
            (*target, *source)
        };
        let mut above = Slot::Item(top);
        let between = levels[bottom].saturating_sub(levels[top] + 1);
        for row in rows.iter_mut().skip(levels[top] + 1).take(between) {
            row.push(Slot::Pass(index));
            links.push((above, Slot::Pass(index)));
            above = Slot::Pass(index);
        }
        links.push((above, Slot::Item(bottom)));
    }
    reduce_crossings(&mut rows, &levels, &links);
    let mut passes = vec![Vec::new(); arrows.len()];
    for (level, row) in rows.iter().enumerate() {
        for (place, slot) in row.iter().enumerate() {
            if let Slot::Pass(arrow) = slot {
                passes[*arrow].push((level, place));
            }
        }
    }
    for (index, (source, target)) in arrows.iter().enumerate() {
        if levels[*source] > levels[*target] {
            passes[index].reverse();
        }
    }
    Layers { rows, passes }
}

/// The length of the longest way to each sibling, arrows that close a circle left out.
fn levels(count: usize, arrows: &[(usize, usize)]) -> Vec<usize> {
    let mut outgoing: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (source, target) in arrows.iter().filter(|(source, target)| source != target) {
        outgoing[*source].push(*target);
    }
    // A walk in depth first; an arrow to what the walk stands in closes a circle.
    let mut state = vec![0_u8; count];
    let mut finished: Vec<usize> = Vec::with_capacity(count);
    let mut forward: Vec<Vec<usize>> = vec![Vec::new(); count];
    for start in 0..count {
        if state[start] != 0 {
            continue;
        }
        state[start] = 1;
        let mut stack = vec![(start, 0)];
        while let Some((item, next)) = stack.last_mut() {
            let item = *item;
            match outgoing[item].get(*next).copied() {
                Some(target) => {
                    *next += 1;
                    if state[target] != 1 {
                        forward[item].push(target);
                    }
                    if state[target] == 0 {
                        state[target] = 1;
                        stack.push((target, 0));
                    }
                }
                None => {
                    state[item] = 2;
                    finished.push(item);
                    stack.pop();
                }
            }
        }
    }
    let mut levels = vec![0_usize; count];
    for item in finished.iter().rev() {
        for target in &forward[*item] {
            levels[*target] = levels[*target].max(levels[*item] + 1);
        }
    }
    // What has only targets sinks down to just above the nearest of them.
    for item in &finished {
        let nearest = forward[*item].iter().map(|target| levels[*target]).min();
        let is_source = levels[*item] == 0;
        if let (true, Some(nearest)) = (is_source, nearest) {
            levels[*item] = nearest.saturating_sub(1);
        }
    }
    levels
}

/// What a slot is linked to in the next layer. A key is its kind, its number and its layer.
type Neighbours = HashMap<(u8, usize, usize), Vec<(u8, usize, usize)>>;

/// Sorts each layer by the mean place of its neighbours, downwards and upwards in turn.
fn reduce_crossings(rows: &mut [Vec<Slot>], levels: &[usize], links: &[(Slot, Slot)]) {
    let key = |slot: Slot, level: usize| match slot {
        Slot::Item(item) => (0, item, levels[item]),
        Slot::Pass(arrow) => (1, arrow, level),
    };
    // A pass has one place in each layer that it goes through, so its key names the layer as well.
    let mut above = Neighbours::default();
    let mut below = Neighbours::default();
    let mut depth: HashMap<usize, usize> = HashMap::default();
    for (top, bottom) in links {
        let level = match top {
            Slot::Item(item) => levels[*item],
            Slot::Pass(arrow) => depth[arrow],
        };
        if let Slot::Pass(arrow) = bottom {
            depth.insert(*arrow, level + 1);
        }
        let (top, bottom) = (key(*top, level), key(*bottom, level + 1));
        below.entry(top).or_default().push(bottom);
        above.entry(bottom).or_default().push(top);
    }
    for sweep in 0..SWEEPS {
        let downwards = sweep % 2 == 0;
        let order: Vec<usize> = if downwards {
            (1..rows.len()).collect()
        } else {
            (0..rows.len().saturating_sub(1)).rev().collect()
        };
        for level in order {
            let other = if downwards { level - 1 } else { level + 1 };
            let neighbours = if downwards { &above } else { &below };
            let width = rows[other].len().max(1) as f64;
            let places: HashMap<_, f64> = rows[other]
                .iter()
                .enumerate()
                .map(|(place, slot)| (key(*slot, other), (place as f64 + 0.5) / width))
                .collect();
            let own = rows[level].len().max(1) as f64;
            let mut weighed: Vec<(f64, Slot)> = rows[level]
                .iter()
                .enumerate()
                .map(|(place, slot)| {
                    let near: Vec<f64> = neighbours
                        .get(&key(*slot, level))
                        .into_iter()
                        .flatten()
                        .filter_map(|neighbour| places.get(neighbour).copied())
                        .collect();
                    // What has no neighbours there keeps its place.
                    let mean = match near.len() {
                        0 => (place as f64 + 0.5) / own,
                        count => near.iter().sum::<f64>() / count as f64,
                    };
                    (mean, *slot)
                })
                .collect();
            weighed.sort_by(|left, right| left.0.total_cmp(&right.0));
            rows[level] = weighed.into_iter().map(|(_, slot)| slot).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_lead_down_and_long_ones_pass_between() {
        let layers = arrange(4, &[(0, 1), (1, 2), (0, 2)]);
        assert_eq!(layers.rows.len(), 3);
        assert_eq!(layers.rows[0], [Slot::Item(0)]);
        assert_eq!(layers.rows[2], [Slot::Item(2)]);
        assert_eq!(layers.passes[2].len(), 1);
        assert!(layers.rows[1].contains(&Slot::Item(1)) && layers.rows[1].contains(&Slot::Pass(2)));
    }

    #[test]
    fn circles_are_no_obstacle() {
        let layers = arrange(3, &[(0, 1), (1, 2), (2, 0)]);
        assert_eq!(layers.rows.len(), 3);
    }

    #[test]
    fn crossings_are_untangled() {
        let layers = arrange(4, &[(0, 3), (1, 2)]);
        let place = |item: usize| {
            layers
                .rows
                .iter()
                .find_map(|row| row.iter().position(|slot| *slot == Slot::Item(item)))
        };
        assert_eq!(place(0) < place(1), place(3) < place(2));
    }
}
