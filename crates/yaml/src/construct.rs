//! What scalars and collections mean: tags, merges, repeated keys.
//!
//! The original builds values only once the whole document is composed; faults found here are therefore kept back until then.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::compose::Interner;
use crate::{Kind, Node, Place, Stage, Text, YamlError, scalar};

/// The kinds of collections that a tag can ask for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Tagged {
    Seq,
    Map,
}

/// Makes values, and keeps the first fault.
pub(crate) struct Constructor<'t> {
    texts: Interner<'t>,
    ascii_only: bool,
    fault: Option<YamlError>,
}

/// Up to here a mapping is searched for repeated keys one by one.
const LINEAR_KEYS_MAX: usize = 12;

const CORE_PREFIX: &str = "tag:yaml.org,2002:";

impl<'t> Constructor<'t> {
    pub(crate) fn new(ascii_only: bool) -> Self {
        Self {
            texts: Interner::default(),
            ascii_only,
            fault: None,
        }
    }

    pub(crate) fn defer(&mut self, error: YamlError) {
        self.fault.get_or_insert(error);
    }

    fn fail(&mut self, message: impl Into<String>, place: Place) {
        self.defer(YamlError::new(Stage::Constructor, message, place));
    }

    /// # Errors
    /// The first fault that was kept back.
    pub(crate) fn finish(&mut self) -> Result<(), YamlError> {
        self.fault.take().map_or(Ok(()), Err)
    }

    pub(crate) fn collection_tag(&mut self, tag: Option<&str>, expected: Tagged, place: Place) {
        let name = match expected {
            Tagged::Seq => "seq",
            Tagged::Map => "map",
        };
        match tag {
            None | Some("!") => {}
            Some(tag) if tag.strip_prefix(CORE_PREFIX) == Some(name) => {}
            Some(tag) => self.fail(format!("the tag {tag} cannot be used for a {name}"), place),
        }
    }

    pub(crate) fn scalar(&mut self, text: Cow<'t, str>, plain: bool, tag: Option<&str>, place: Place) -> Node {
        let kind = match tag {
            None if !plain => self.string(text, place),
            None | Some("!") => self.plain(text, place),
            Some(tag) => self.tagged(text, tag, place),
        };
        Node::new(kind, place)
    }

    fn string(&mut self, text: Cow<'t, str>, place: Place) -> Kind {
        if self.ascii_only && !text.is_ascii() {
            let message = "only ASCII characters are allowed in texts";
            self.defer(YamlError::new(Stage::Charset, message, place));
        }
        Kind::Str(self.texts.text(text))
    }

    fn plain(&mut self, text: Cow<'t, str>, place: Place) -> Kind {
        match scalar::resolve(&text) {
            Ok(Some(kind)) => kind,
            Ok(None) => {
                if matches!(&*text, "=" | "<<") {
                    // As a key `<<` is a merge and `=` a text; the mapping takes care of them.
                    return Kind::Str(self.texts.text(Cow::Owned(format!("\0{text}"))));
                }
                self.string(text, place)
            }
            Err(message) => {
                self.fail(message, place);
                Kind::Null
            }
        }
    }

    fn tagged(&mut self, text: Cow<'t, str>, tag: &str, place: Place) -> Kind {
        let resolved = match tag.strip_prefix(CORE_PREFIX) {
            Some("str") => return self.string(text, place),
            Some("null") => return Kind::Null,
            Some("bool") => match text.to_ascii_lowercase().as_str() {
                "yes" | "true" | "on" => Ok(Kind::Bool(true)),
                "no" | "false" | "off" => Ok(Kind::Bool(false)),
                _ => Err(format!("{text:?} is neither true nor false")),
            },
            Some("int") => scalar::forced_integer(&text),
            Some("float") => scalar::forced_float(&text),
            Some("timestamp") => match scalar::resolve(&text) {
                Ok(Some(kind @ Kind::Timestamp(_))) => Ok(kind),
                _ => Err(format!("{text:?} is no date")),
            },
            _ => Err(format!("the tag {tag} is unknown")),
        };
        resolved.unwrap_or_else(|message| {
            self.fail(message, place);
            Kind::Null
        })
    }

    pub(crate) fn sequence(&mut self, items: Vec<Node>, place: Place) -> Node {
        items.iter().for_each(|item| self.refuse_mark(item));
        Node::seq(items, place)
    }

    /// Applies `<<`: own keys win over merged ones, of several merged mappings the earlier one wins. Of repeated keys the last
    /// value stands at the place of the first.
    pub(crate) fn mapping(&mut self, entries: Vec<(Node, Node)>, place: Place) -> Node {
        let has_merge = entries.iter().any(|(key, _)| key.as_str() == Some("\0<<"));
        let entries = if has_merge { self.merged(entries) } else { entries };
        Node::map(self.unique(entries), place)
    }

    fn merged(&mut self, entries: Vec<(Node, Node)>) -> Vec<(Node, Node)> {
        let (mut inherited, mut own) = (Vec::new(), Vec::new());
        for (key, value) in entries {
            if key.as_str() != Some("\0<<") {
                own.push((key, value));
                continue;
            }
            match &value.kind {
                Kind::Map(merged) => inherited.extend(merged.iter().cloned()),
                Kind::Seq(items) => {
                    // Later entries win in the end, so the earlier mapping comes last.
                    for item in items.iter().rev() {
                        match &item.kind {
                            Kind::Map(merged) => inherited.extend(merged.iter().cloned()),
                            _ => self.fail("only mappings can be merged with <<", item.place),
                        }
                    }
                }
                _ => self.fail("only mappings can be merged with <<", value.place),
            }
        }
        inherited.extend(own);
        inherited
    }

    fn unique(&mut self, mut entries: Vec<(Node, Node)>) -> Vec<(Node, Node)> {
        for (key, value) in &mut entries {
            match &key.kind {
                Kind::Seq(_) | Kind::Map(_) => self.fail("a list or mapping cannot be a key", key.place),
                Kind::Str(text) if &**text == "\0=" => key.kind = Kind::Str(self.texts.text(Cow::Borrowed("="))),
                _ => {}
            }
            self.refuse_mark(value);
        }
        if entries.len() <= LINEAR_KEYS_MAX {
            for at in 1..entries.len() {
                let first = (0..at).find(|earlier| is_same_key(&entries[*earlier].0, &entries[at].0));
                if first.is_some() {
                    return unique_by_index(entries);
                }
            }
            return entries;
        }
        unique_by_index(entries)
    }

    /// A plain `<<` or `=` that is no key of a mapping has no meaning.
    pub(crate) fn refuse_mark(&mut self, value: &Node) {
        if value
            .as_str()
            .is_some_and(|text| text.starts_with('\0') && text.len() > 1)
        {
            self.fail("'<<' and '=' are only for keys: put quotes around them", value.place);
        }
    }
}

fn is_same_key(a: &Node, b: &Node) -> bool {
    match (&a.kind, &b.kind) {
        (Kind::Str(a), Kind::Str(b)) => Text::ptr_eq(a, b) || a == b,
        (Kind::Str(_), _) | (_, Kind::Str(_)) => false,
        _ => identity(a) == identity(b),
    }
}

/// Keys that are equal for the original: 1, 1.0 and true are one.
fn identity(key: &Node) -> Cow<'_, str> {
    match &key.kind {
        Kind::Str(text) => Cow::Borrowed(text),
        Kind::Bool(value) => Cow::Owned(format!("\0{}", i64::from(*value))),
        Kind::Int(value) => Cow::Owned(format!("\0{value}")),
        Kind::Float(value) => Cow::Owned(format!("\0{value}")),
        _ => Cow::Owned(format!("\0{}:{}", key.type_name(), key.key_text())),
    }
}

fn unique_by_index(entries: Vec<(Node, Node)>) -> Vec<(Node, Node)> {
    let mut result: Vec<(Node, Node)> = Vec::with_capacity(entries.len());
    let mut positions: HashMap<Text, usize, BuildHasherDefault<rustc_hash::FxHasher>> =
        HashMap::with_capacity_and_hasher(entries.len(), BuildHasherDefault::default());
    for (key, value) in entries {
        let identity = match &key.kind {
            Kind::Str(text) => text.clone(),
            _ => identity(&key).into(),
        };
        match positions.get(&identity) {
            Some(position) => result[*position].1 = value,
            None => {
                positions.insert(identity, result.len());
                result.push((key, value));
            }
        }
    }
    result
}
