//! From text to tree.

use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use crate::{Kind, Node, Place, YamlError, scalar};

/// What a text may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How deep values may be nested.
    pub depth: usize,
    /// How many values the tree may hold once aliases are expanded.
    pub nodes: usize,
    /// How long the text may be, in bytes.
    pub bytes: usize,
}

impl Default for Limits {
    /// Far above any real blueprint: 50,000 node templates make about 3 million values.
    fn default() -> Self {
        Self {
            depth: 200,
            nodes: 20_000_000,
            bytes: 256 << 20,
        }
    }
}

/// Reads a text that holds one document; an empty one is null.
///
/// # Errors
/// When it is no YAML, holds more than one document, an unknown tag or alias, or exceeds a limit.
pub fn parse(text: &str, limits: &Limits) -> Result<Node, YamlError> {
    if text.len() > limits.bytes {
        let message = format!("the text is longer than {} bytes", limits.bytes);
        return Err(YamlError::new(message, Place::default()));
    }
    Builder {
        limits,
        nodes: 0,
        open: Vec::new(),
        anchors: HashMap::new(),
        root: None,
    }
    .run(text)
}

struct Builder<'l> {
    limits: &'l Limits,
    nodes: usize,
    open: Vec<Open>,
    /// What an anchor names, and how many values that is.
    anchors: HashMap<usize, (Node, usize)>,
    root: Option<Node>,
}

/// A list or mapping whose end has not come yet.
struct Open {
    place: Place,
    anchor: usize,
    first_node: usize,
    content: Content,
}

enum Content {
    Seq(Vec<Node>),
    Map {
        entries: Vec<(Node, Node)>,
        key: Option<Node>,
    },
}

fn place(marker: &Marker) -> Place {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Place {
        line: number(marker.line()),
        column: number(marker.col()).saturating_add(1),
    }
}

impl Builder<'_> {
    fn run(mut self, text: &str) -> Result<Node, YamlError> {
        for item in Parser::new_from_str(text) {
            let (event, span) = item.map_err(|error| YamlError::new(error.info(), place(error.marker())))?;
            self.take(event, place(&span.start))?;
        }
        Ok(self.root.unwrap_or(Node::new(Kind::Null, Place { line: 1, column: 1 })))
    }

    fn take(&mut self, event: Event<'_>, place: Place) -> Result<(), YamlError> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => Err(YamlError::new(
                "expected a single document in the stream, but found another",
                place,
            )),
            Event::Scalar(text, style, anchor, tag) => {
                let kind = scalar_kind(&text, style, tag.as_deref(), place)?;
                let first = self.nodes;
                self.count(1, place)?;
                self.finish(Node::new(kind, place), anchor, first)
            }
            Event::Alias(id) => {
                let known = self.anchors.get(&id);
                let (node, size) = known
                    .cloned()
                    .ok_or_else(|| YamlError::new("an alias to an unfinished value", place))?;
                let first = self.nodes;
                self.count(size, place)?;
                self.finish(node, 0, first)
            }
            Event::SequenceStart(anchor, tag) => {
                known_collection_tag(tag.as_deref(), "seq", place)?;
                self.begin(Content::Seq(Vec::new()), anchor, place)
            }
            Event::MappingStart(anchor, tag) => {
                known_collection_tag(tag.as_deref(), "map", place)?;
                self.begin(
                    Content::Map {
                        entries: Vec::new(),
                        key: None,
                    },
                    anchor,
                    place,
                )
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn count(&mut self, more: usize, place: Place) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > self.limits.nodes {
            let message = format!("more than {} values once aliases are expanded", self.limits.nodes);
            return Err(YamlError::new(message, place));
        }
        Ok(())
    }

    fn begin(&mut self, content: Content, anchor: usize, place: Place) -> Result<(), YamlError> {
        if self.open.len() >= self.limits.depth {
            return Err(YamlError::new(
                format!("nested deeper than {} levels", self.limits.depth),
                place,
            ));
        }
        let first_node = self.nodes;
        self.count(1, place)?;
        self.open.push(Open {
            place,
            anchor,
            first_node,
            content,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), YamlError> {
        // The parser pairs starts and ends.
        let Some(open) = self.open.pop() else { return Ok(()) };
        let kind = match open.content {
            Content::Seq(items) => Kind::Seq(items),
            Content::Map { entries, .. } => Kind::Map(unique(merged(entries)?)),
        };
        self.finish(Node::new(kind, open.place), open.anchor, open.first_node)
    }

    /// A value is complete: it belongs to whatever is open, or is the root.
    fn finish(&mut self, node: Node, anchor: usize, first_node: usize) -> Result<(), YamlError> {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - first_node));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::Seq(items)) => items.push(node),
            Some(Content::Map { entries, key }) => match key.take() {
                Some(name) => entries.push((name, node)),
                None if matches!(node.kind, Kind::Seq(_) | Kind::Map(_)) => {
                    return Err(YamlError::new("a list or mapping cannot be a key", node.place));
                }
                None => *key = Some(node),
            },
        }
        Ok(())
    }
}

fn scalar_kind(text: &str, style: ScalarStyle, tag: Option<&Tag>, place: Place) -> Result<Kind, YamlError> {
    let Some(tag) = tag else {
        return Ok(if style == ScalarStyle::Plain {
            scalar::resolve(text)
        } else {
            Kind::Str(text.to_owned())
        });
    };
    let resolved = scalar::resolve(text);
    match (tag.suffix.as_str(), is_core(tag)) {
        ("str", true) => Ok(Kind::Str(text.to_owned())),
        ("null", true) => Ok(Kind::Null),
        ("bool", true) if matches!(resolved, Kind::Bool(_)) => Ok(resolved),
        ("int", true) if matches!(resolved, Kind::Int(_) | Kind::BigInt(_)) => Ok(resolved),
        ("float", true) => match resolved {
            Kind::Float(_) => Ok(resolved),
            Kind::Int(value) => Ok(Kind::Float(value as f64)),
            _ => Err(YamlError::new(format!("{text:?} is no float"), place)),
        },
        (suffix, _) => Err(YamlError::new(
            format!("the tag {}{suffix} cannot be used for {text:?}", tag.handle),
            place,
        )),
    }
}

fn is_core(tag: &Tag) -> bool {
    tag.handle == "tag:yaml.org,2002:" || tag.handle == "!!"
}

fn known_collection_tag(tag: Option<&Tag>, expected: &str, place: Place) -> Result<(), YamlError> {
    match tag {
        None => Ok(()),
        Some(tag) if is_core(tag) && tag.suffix == expected => Ok(()),
        Some(tag) => Err(YamlError::new(
            format!("unknown tag {}{}", tag.handle, tag.suffix),
            place,
        )),
    }
}

/// Applies `<<`: own keys win over merged ones; of several merged mappings the earlier one wins.
fn merged(entries: Vec<(Node, Node)>) -> Result<Vec<(Node, Node)>, YamlError> {
    if !entries.iter().any(|(key, _)| key.as_str() == Some("<<")) {
        return Ok(entries);
    }
    let (mut inherited, mut own) = (Vec::new(), Vec::new());
    for (key, value) in entries {
        if key.as_str() != Some("<<") {
            own.push((key, value));
            continue;
        }
        match value.kind {
            Kind::Map(merged) => inherited.extend(merged),
            Kind::Seq(items) => {
                // Later entries win in the end, so the earlier mapping comes last.
                for item in items.into_iter().rev() {
                    let Kind::Map(merged) = item.kind else {
                        return Err(YamlError::new("only mappings can be merged with <<", item.place));
                    };
                    inherited.extend(merged);
                }
            }
            _ => return Err(YamlError::new("only mappings can be merged with <<", value.place)),
        }
    }
    inherited.extend(own);
    Ok(inherited)
}

/// Of repeated keys the last value wins, at the place of the first.
fn unique(entries: Vec<(Node, Node)>) -> Vec<(Node, Node)> {
    let mut positions: BTreeMap<String, usize> = BTreeMap::new();
    let mut result: Vec<(Node, Node)> = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        // Keys of different types are different keys.
        let identity = format!("{}:{}", key.type_name(), key.key_text());
        match positions.get(&identity) {
            Some(position) => result[*position] = (key, value),
            None => {
                positions.insert(identity, result.len());
                result.push((key, value));
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> serde_json::Value {
        crate::to_json(text).unwrap()
    }

    #[test]
    fn values_know_their_place() {
        let node = parse("a: 1\nb:\n  - x\n  - {c: d}\n", &Limits::default()).unwrap();
        let item = &node.get("b").unwrap().as_seq().unwrap()[1];
        assert_eq!(item.place, Place { line: 4, column: 5 });
        assert_eq!(item.get("c").unwrap().place.line, 4);
    }

    #[test]
    fn merges_and_duplicates_follow_the_reference() {
        assert_eq!(
            read("x: &a {k: 1, l: 2}\ny:\n  <<: *a\n  k: 3\n")["y"],
            json!({"k": 3, "l": 2})
        );
        assert_eq!(
            read("a: &a {k: 1}\nb: &b {k: 2, m: 5}\nc: {<<: [*a, *b]}\n")["c"],
            json!({"k": 1, "m": 5})
        );
        assert_eq!(read("k: 1\nk: 2\n"), json!({"k": 2}));
    }

    #[test]
    fn quoted_scalars_are_texts() {
        assert_eq!(read("[yes, 'yes', \"1\", 1]"), json!([true, "yes", "1", 1]));
    }

    #[test]
    fn an_empty_text_is_null_and_two_documents_are_refused() {
        assert_eq!(read("# nothing\n"), json!(null));
        assert!(crate::to_json("--- 1\n--- 2\n").is_err());
    }

    #[test]
    fn errors_name_the_place() {
        let error = crate::to_json("a: b: c\n").unwrap_err();
        assert_eq!(error.place.line, 1, "{error}");
        let error = crate::to_json("a: 1\nb: !!python/object:os.system x\n").unwrap_err();
        assert_eq!(error.place.line, 2, "{error}");
    }

    #[test]
    fn alias_bombs_and_deep_nests_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let last = level - 1;
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{last}"); 10].join(", "));
        }
        let limits = Limits {
            nodes: 100_000,
            ..Limits::default()
        };
        assert!(parse(&bomb, &limits).unwrap_err().message.contains("aliases"));
        assert!(parse(&"[".repeat(10_000), &Limits::default()).is_err());
    }

    proptest! {
        #[test]
        fn any_text_ends_in_a_value_or_an_error(text in "[ -~\n]{0,200}") {
            let limits = Limits { depth: 20, nodes: 1000, bytes: 1000 };
            let _either = parse(&text, &limits);
        }
    }
}
