//! Where every box is and how large.

use super::layers::{Layers, Slot, arrange};
use super::tree::{BoxId, Tree};

/// Space between siblings, and between a box and what lies in it.
const GAP: f64 = 28.0;
const PADDING: f64 = 20.0;
/// Space between layers: room for arrows to bend.
const LAYER_GAP: f64 = 56.0;
/// The width of an arrow that passes through a layer.
const PASS: f64 = 14.0;
/// A box's name and type.
pub(crate) const HEADER: f64 = 46.0;
/// A scaling group's name.
pub(crate) const GROUP_HEADER: f64 = 26.0;
const BOX_WIDTH_MIN: f64 = 150.0;
const BOX_WIDTH_MAX: f64 = 420.0;
/// Rows of unconnected siblings are no wider than this, unless one sibling is.
const ROW_WIDTH: f64 = 1_100.0;

/// A rectangle.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Rect {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Rect {
    pub(crate) fn middle(&self) -> f64 {
        self.x + self.width / 2.0
    }

    pub(crate) fn bottom(&self) -> f64 {
        self.y + self.height
    }

    pub(crate) fn right(&self) -> f64 {
        self.x + self.width
    }
}

/// The places of all boxes, and the points that arrows pass through.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    pub(crate) boxes: Vec<Rect>,
    /// By arrow: points on its way between its ends' outermost boxes.
    pub(crate) points: Vec<Vec<(f64, f64)>>,
}

/// The inside of a box: places relative to its corner, before it is known where the box is.
#[derive(Debug, Default)]
struct Inside {
    /// Upper left corners of what lies in it.
    corners: Vec<(BoxId, f64, f64)>,
    /// Points of arrows.
    points: Vec<(usize, Vec<(f64, f64)>)>,
}

/// The width of a text in the picture's font, roughly.
pub(crate) fn text_width(text: &str, size: f64) -> f64 {
    text.chars()
        .map(|character| if character.is_ascii() { 0.61 } else { 0.95 })
        .sum::<f64>()
        * size
}

/// A box's size when it holds nothing.
fn bare(width: f64) -> (f64, f64) {
    (width.clamp(BOX_WIDTH_MIN, BOX_WIDTH_MAX), HEADER)
}

impl Layout {
    pub(crate) fn new(tree: &Tree, labels: &[f64]) -> Self {
        let mut arrows: Vec<Vec<(usize, BoxId, BoxId)>> = vec![Vec::new(); tree.children.len()];
        for (index, arrow) in tree.arrows.iter().enumerate() {
            if let Some((around, source, target)) = tree.siblings(*arrow) {
                arrows[around].push((index, source, target));
            }
        }
        let mut sizes = vec![(0.0, 0.0); tree.children.len()];
        let mut insides: Vec<Inside> = Vec::new();
        insides.resize_with(tree.children.len(), Inside::default);
        // What lies inside is measured before what is around it.
        for id in tree.order.iter().rev().copied() {
            let own = labels.get(id).copied().unwrap_or_default();
            let (width, height) = bare(own);
            if tree.children[id].is_empty() && id != tree.root() {
                sizes[id] = (width, height);
                continue;
            }
            let header = match id {
                _ if id == tree.root() => 0.0,
                _ if tree.is_group(id) => GROUP_HEADER,
                _ => HEADER,
            };
            let (inside, size) = place(&tree.children[id], &arrows[id], &sizes, header);
            insides[id] = inside;
            sizes[id] = (size.0.max(width), size.1.max(height));
        }
        Self::from_insides(tree, &sizes, insides)
    }

    fn from_insides(tree: &Tree, sizes: &[(f64, f64)], insides: Vec<Inside>) -> Self {
        let mut layout = Self {
            boxes: sizes
                .iter()
                .map(|(width, height)| Rect {
                    width: *width,
                    height: *height,
                    ..Rect::default()
                })
                .collect(),
            points: vec![Vec::new(); tree.arrows.len()],
        };
        for id in &tree.order {
            let Rect { x, y, .. } = layout.boxes[*id];
            for (child, left, top) in &insides[*id].corners {
                layout.boxes[*child].x = x + left;
                layout.boxes[*child].y = y + top;
            }
            for (arrow, points) in &insides[*id].points {
                layout.points[*arrow] = points.iter().map(|(left, top)| (x + left, y + top)).collect();
            }
        }
        layout
    }
}

/// Places siblings below a header: connected ones in layers, the others in rows. Answers their places and the size of it all.
fn place(
    children: &[BoxId],
    arrows: &[(usize, BoxId, BoxId)],
    sizes: &[(f64, f64)],
    header: f64,
) -> (Inside, (f64, f64)) {
    let position = |id: BoxId| children.binary_search(&id).unwrap_or_default();
    // Children are in the order of their ids. Several arrows between the same two count once for the arrangement.
    let pairs: Vec<(usize, usize)> = arrows
        .iter()
        .map(|(_, source, target)| (position(*source), position(*target)))
        .collect();
    let layers = arrange(children.len(), &pairs);
    let mut inside = Inside::default();
    let layered = place_layers(children, arrows, sizes, header, &layers, &mut inside);
    let mut placed = vec![false; children.len()];
    for (source, target) in pairs {
        placed[source] = true;
        placed[target] = true;
    }
    let loose: Vec<BoxId> = children
        .iter()
        .zip(placed)
        .filter(|(_, placed)| !placed)
        .map(|(id, _)| *id)
        .collect();
    let rows = place_rows(&loose, sizes, layered.1, layered.0, &mut inside);
    let width = layered.0.max(rows.0);
    let height = rows.1.max(layered.1);
    (inside, (width + 2.0 * PADDING, height + PADDING))
}

/// Answers the width of the layers, and where they end.
fn place_layers(
    children: &[BoxId],
    arrows: &[(usize, BoxId, BoxId)],
    sizes: &[(f64, f64)],
    header: f64,
    layers: &Layers,
    inside: &mut Inside,
) -> (f64, f64) {
    let width_of = |slot: &Slot| match slot {
        Slot::Item(item) => sizes[children[*item]].0,
        Slot::Pass(_) => PASS,
    };
    let widths: Vec<f64> = layers
        .rows
        .iter()
        .map(|row| row.iter().map(width_of).sum::<f64>() + GAP * row.len().saturating_sub(1) as f64)
        .collect();
    let width = widths.iter().copied().fold(0.0, f64::max);
    let mut top = header + PADDING;
    let mut points: Vec<Vec<(f64, f64)>> = vec![Vec::new(); arrows.len()];
    for (row, own) in layers.rows.iter().zip(&widths) {
        let height = row
            .iter()
            .map(|slot| match slot {
                Slot::Item(item) => sizes[children[*item]].1,
                Slot::Pass(_) => 0.0,
            })
            .fold(0.0, f64::max);
        // A short row is spread a little, so that what is connected lies below each other more often.
        let spread = ((width - own) / (row.len() + 1) as f64).min(GAP * 3.0);
        let total = own + spread * row.len().saturating_sub(1) as f64;
        let mut left = PADDING + (width - total) / 2.0;
        for slot in row {
            match slot {
                Slot::Item(item) => {
                    let id = children[*item];
                    inside.corners.push((id, left, top + (height - sizes[id].1) / 2.0));
                }
                Slot::Pass(arrow) => {
                    let middle = left + PASS / 2.0;
                    points[*arrow].extend([(middle, top), (middle, top + height)]);
                }
            }
            left += width_of(slot) + GAP + spread;
        }
        top += height + LAYER_GAP;
    }
    for ((index, _, _), mut points) in arrows.iter().zip(points) {
        // An arrow that leads up passes the layers from below.
        let upwards = layers.passes.get(inside.points.len()).is_some_and(|passes| {
            passes
                .first()
                .zip(passes.last())
                .is_some_and(|(first, last)| first.0 > last.0)
        });
        if upwards {
            points.reverse();
        }
        inside.points.push((*index, points));
    }
    let bottom = if layers.rows.is_empty() {
        header + PADDING
    } else {
        top - LAYER_GAP
    };
    (width, bottom)
}

/// Places siblings in rows from `top` on. Answers their width, and where they end.
fn place_rows(loose: &[BoxId], sizes: &[(f64, f64)], top: f64, width: f64, inside: &mut Inside) -> (f64, f64) {
    if loose.is_empty() {
        return (0.0, top);
    }
    let total: f64 = loose.iter().map(|id| (sizes[*id].0 + GAP) * (sizes[*id].1 + GAP)).sum();
    // About half as high as wide, at least as wide as the layers above and the widest sibling.
    let widest = loose.iter().map(|id| sizes[*id].0).fold(0.0, f64::max);
    let wanted = (total * 1.8).sqrt().clamp(widest, ROW_WIDTH.max(widest)).max(width);
    let mut top = if width > 0.0 { top + LAYER_GAP } else { top };
    let (mut left, mut height, mut used) = (PADDING, 0.0_f64, 0.0_f64);
    for id in loose {
        let (own_width, own_height) = sizes[*id];
        if left > PADDING && left + own_width > PADDING + wanted {
            top += height + GAP;
            (left, height) = (PADDING, 0.0);
        }
        inside.corners.push((*id, left, top));
        used = used.max(left + own_width - PADDING);
        left += own_width + GAP;
        height = height.max(own_height);
    }
    (used, top + height)
}
