//! Which instances are connected with which.

use rustc_hash::FxHashMap as HashMap;

use super::expand::Expansion;
use super::graph::{Connection, Graph};
use crate::{Class, Fault};

/// The most relationships that instances may have altogether: two scaled templates connected with each other multiply.
const RELATIONSHIPS_MAX: usize = 10_000_000;

/// The target of an `all_to_one` relationship.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// The one with the smallest id.
    Any,
    /// This one.
    Instance(usize),
}

/// By instance, its relationships: the position of the template's relationship and the target, in order of the positions.
pub(crate) type Ends = Vec<Vec<(usize, usize)>>;

/// Connects instances.
///
/// `chosen` names the target of an `all_to_one` relationship; it may be one that is not of the expansion.
///
/// # Errors
/// When a relationship is `all_to_one` within a scaling group, or there are more relationships than this implementation takes.
pub(crate) fn connect(
    graph: &Graph<'_>,
    expansion: &Expansion,
    chosen: &mut dyn FnMut(&Connection) -> Result<Chosen, Fault>,
) -> Result<Ends, Fault> {
    let mut ends: Ends = vec![Vec::new(); expansion.placed.len()];
    let mut count = 0_usize;
    for connection in &graph.connections {
        let sources = expansion.of_vertex[connection.source].as_slice();
        let targets = expansion.of_vertex[connection.target].as_slice();
        if sources.is_empty() || targets.is_empty() {
            continue;
        }
        let group = graph.shared_group(connection.source, connection.target);
        if let (true, Some(group)) = (connection.to_one, group) {
            let [source, target, group] =
                [connection.source, connection.target, group].map(|vertex| &graph.vertices[vertex].name);
            let message = format!(
                "'all_to_one' connection type is not supported within groups, but the source node '{source}' and target \
                 node '{target}' are both in group '{group}'"
            );
            return Err(Fault::new(
                Class::UnsupportedAllToOneInGroup,
                message,
                format!("nodes.{source}"),
            ));
        }
        let mut join = |sources: &[usize], targets: &[usize]| {
            count = count.saturating_add(sources.len().saturating_mul(targets.len()));
            if count > RELATIONSHIPS_MAX {
                let message = format!("there are more than {RELATIONSHIPS_MAX} relationships between instances");
                return Err(Fault::new(Class::Limit, message, ""));
            }
            for source in sources {
                ends[*source].extend(targets.iter().map(|target| (connection.position, *target)));
            }
            Ok(())
        };
        if connection.to_one {
            let first = || {
                targets
                    .iter()
                    .copied()
                    .min_by(|a, b| expansion.placed[*a].id.cmp(&expansion.placed[*b].id))
            };
            let target = match chosen(connection)? {
                Chosen::Any => first(),
                Chosen::Instance(target) => Some(target),
            };
            join(sources, target.as_slice())?;
        } else if let Some(group) = group {
            let mut parts: HashMap<usize, (Vec<usize>, Vec<usize>)> = HashMap::default();
            for source in sources {
                if let Some(group) = expansion.group_of(*source, group) {
                    parts.entry(group).or_default().0.push(*source);
                }
            }
            for target in targets {
                if let Some(group) = expansion.group_of(*target, group) {
                    parts.entry(group).or_default().1.push(*target);
                }
            }
            for (sources, targets) in parts.values() {
                join(sources, targets)?;
            }
        } else {
            join(sources, targets)?;
        }
    }
    Ok(ends)
}
