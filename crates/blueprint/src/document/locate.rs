//! Finds where in the files an element of a dotted path stands.

use conclave_yaml::{Kind, Node, Place};

use super::Document;

/// The place of the element, or of the nearest one around it.
///
/// Names hold dots themselves; of several names that the path may go on with, the longest is taken.
pub(crate) fn locate(document: &Document, path: &str) -> Place {
    let (section, rest) = path.split_once('.').unwrap_or((path, ""));
    let Some(found) = document.section(section) else {
        return document.place;
    };
    let Some(entries) = found.entries() else {
        return found.key.place;
    };
    let Some((name, rest)) = longest(rest, |name| entries.contains_key(name)) else {
        return found.key.place;
    };
    entries
        .get(name)
        .map_or(found.key.place, |entry| below(&entry.value, rest, entry.key.place))
}

fn below(node: &Node, path: &str, found: Place) -> Place {
    match &node.kind {
        Kind::Map(entries) => {
            let step = entries
                .iter()
                .filter_map(|(key, value)| Some((key.place, value, remainder(path, key.as_str()?)?)))
                .min_by_key(|(.., rest)| rest.len());
            step.map_or(found, |(place, value, rest)| below(value, rest, place))
        }
        Kind::Seq(items) => {
            let (index, rest) = match path.strip_prefix('[') {
                Some(path) => path.split_once(']').unwrap_or((path, "")),
                None => path.split_once('.').unwrap_or((path, "")),
            };
            match index.parse().ok().and_then(|index: usize| items.get(index)) {
                Some(item) => below(item, rest.strip_prefix('.').unwrap_or(rest), item.place),
                None => found,
            }
        }
        _ => found,
    }
}

/// What is left of a path once it has gone through a name.
fn remainder<'p>(path: &'p str, name: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(name)?;
    match rest.as_bytes().first() {
        None | Some(b'[') => Some(rest),
        Some(b'.') => Some(&rest[1..]),
        Some(_) => None,
    }
}

/// The longest name that a path begins with. Names are looked up rather than compared, as there may be very many.
fn longest(path: &str, is_known: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
    let ends = path
        .bytes()
        .enumerate()
        .filter(|(_, byte)| matches!(byte, b'.' | b'['))
        .map(|(at, _)| at)
        .chain([path.len()]);
    let end = ends.filter(|end| is_known(&path[..*end])).max()?;
    let rest = &path[end..];
    Some((&path[..end], rest.strip_prefix('.').unwrap_or(rest)))
}
