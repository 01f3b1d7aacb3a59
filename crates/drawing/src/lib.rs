//! Drawings of topologies: a plan as an SVG picture.
//!
//! What is contained in a node lies inside of it; scaling groups are dashed boxes around their members; other relationships are
//! arrows, from the source down to what it needs. Pure: a plan comes in, a text goes out. The time is linear in the size of the
//! plan but for the sorting of neighbours, and nothing recurses, however deep containers lie in each other.

mod layers;
mod layout;
mod route;
mod svg;
mod tree;

use conclave_blueprint::Plan;

/// The picture of a plan's topology, as the text of an SVG file.
pub fn svg(plan: &Plan) -> String {
    let tree = tree::Tree::new(plan);
    let layout = layout::Layout::new(&tree, &svg::label_widths(plan));
    svg::write(plan, &tree, &layout)
}

#[cfg(test)]
mod tests;
