//! Makes the tree of the tokens: which may follow which, what anchors name, how deep and how large it may become.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::construct::{Constructor, Tagged};
use crate::scanner::Scanner;
use crate::token::{Mark, TokenKind};
use crate::{Kind, Limits, Node, Stage, Text, YamlError};

/// Reads one document.
pub(crate) struct Composer<'t, 'l> {
    scanner: Scanner<'t>,
    limits: &'l Limits,
    depth: usize,
    nodes: usize,
    alias_nodes: usize,
    anchors: HashMap<&'t str, Anchor>,
    /// What the short names of tags stand for.
    handles: Vec<(Cow<'t, str>, Cow<'t, str>)>,
    constructor: Constructor<'t>,
}

/// What an anchor names.
enum Anchor {
    /// It is not complete yet.
    Open,
    /// It is, and this many values it has.
    Known(Node, usize),
}

/// What may stand before a value.
#[derive(Default)]
struct Properties<'t> {
    anchor: Option<&'t str>,
    tag: Option<Cow<'t, str>>,
}

const CORE_PREFIX: &str = "tag:yaml.org,2002:";

impl<'t, 'l> Composer<'t, 'l> {
    pub(crate) fn new(text: &'t str, source: u16, limits: &'l Limits) -> Self {
        Self {
            scanner: Scanner::new(text, source),
            limits,
            depth: 0,
            nodes: 0,
            alias_nodes: 0,
            anchors: HashMap::new(),
            handles: Vec::new(),
            constructor: Constructor::new(limits.ascii_only),
        }
    }

    /// The value of the one document; none where there is no document.
    pub(crate) fn run(mut self) -> Result<Option<Node>, YamlError> {
        let first = &self.scanner.peek()?.kind;
        let is_bare = !matches!(
            first,
            TokenKind::YamlDirective { .. }
                | TokenKind::TagDirective { .. }
                | TokenKind::OtherDirective
                | TokenKind::DocumentStart
                | TokenKind::StreamEnd
        );
        if !is_bare && !self.begin_document()? {
            return Ok(None);
        }
        let root = if !is_bare && self.is_at_document_end()? {
            let mark = self.scanner.peek()?.mark;
            self.empty(mark, Properties::default())?
        } else {
            self.node(true, false)?
        };
        if matches!(self.scanner.peek()?.kind, TokenKind::DocumentEnd) {
            self.scanner.next()?;
        }
        let next = self.scanner.peek()?.mark;
        if self.begin_document()? {
            return Err(self.error(Stage::Composer, "a second document begins here: one is expected", next));
        }
        self.constructor.refuse_mark(&root);
        self.constructor.finish()?;
        Ok(Some(root))
    }

    /// Reads up to the start of a document; false at the end of the text.
    fn begin_document(&mut self) -> Result<bool, YamlError> {
        while matches!(self.scanner.peek()?.kind, TokenKind::DocumentEnd) {
            self.scanner.next()?;
        }
        if matches!(self.scanner.peek()?.kind, TokenKind::StreamEnd) {
            return Ok(false);
        }
        self.handles.clear();
        let mut has_version = false;
        loop {
            let token = self.scanner.next()?;
            match token.kind {
                TokenKind::YamlDirective { major } => {
                    if has_version || major != 1 {
                        return Err(self.error(Stage::Parser, "one '%YAML 1.…' is expected", token.mark));
                    }
                    has_version = true;
                }
                TokenKind::TagDirective { handle, prefix } => {
                    if self.handles.iter().any(|(known, _)| *known == handle) {
                        return Err(self.error(Stage::Parser, "the handle is declared twice", token.mark));
                    }
                    self.handles.push((handle, prefix));
                }
                TokenKind::OtherDirective => {}
                TokenKind::DocumentStart => return Ok(true),
                other => {
                    let message = format!("the start of a document is expected, found {}", other.name());
                    return Err(self.error(Stage::Parser, message, token.mark));
                }
            }
        }
    }

    fn is_at_document_end(&mut self) -> Result<bool, YamlError> {
        Ok(matches!(
            self.scanner.peek()?.kind,
            TokenKind::YamlDirective { .. }
                | TokenKind::TagDirective { .. }
                | TokenKind::OtherDirective
                | TokenKind::DocumentStart
                | TokenKind::DocumentEnd
                | TokenKind::StreamEnd
        ))
    }

    fn error(&self, stage: Stage, message: impl Into<String>, mark: Mark) -> YamlError {
        YamlError::new(stage, message, self.scanner.place_of(mark))
    }

    fn count(&mut self, mark: Mark) -> Result<(), YamlError> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            let message = format!("more than {} values", self.limits.nodes);
            return Err(self.error(Stage::Limit, message, mark));
        }
        Ok(())
    }

    /// Reads a value. `block` tells whether a block may begin, `indentless` whether a list may stand at the column of its key.
    fn node(&mut self, block: bool, indentless: bool) -> Result<Node, YamlError> {
        if let TokenKind::Alias(name) = self.scanner.peek()?.kind {
            let mark = self.scanner.next()?.mark;
            return self.alias(name, mark);
        }
        let start = self.scanner.peek()?.mark;
        let properties = self.properties()?;
        let first_node = self.nodes;
        if let Some(name) = properties.anchor {
            match self.anchors.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert(Anchor::Open);
                }
                Entry::Occupied(_) => {
                    return Err(self.error(Stage::Composer, format!("the anchor {name:?} is there already"), start));
                }
            }
        }
        self.depth += 1;
        if self.depth > self.limits.depth {
            let message = format!("nested deeper than {} levels", self.limits.depth);
            return Err(self.error(Stage::Limit, message, start));
        }
        let anchor = properties.anchor;
        let node = self.content(block, indentless, start, properties)?;
        self.depth -= 1;
        if let Some(name) = anchor {
            let size = self.nodes - first_node;
            self.anchors.insert(name, Anchor::Known(node.clone(), size));
        }
        Ok(node)
    }

    fn alias(&mut self, name: &str, mark: Mark) -> Result<Node, YamlError> {
        match self.anchors.get(name) {
            None => Err(self.error(Stage::Composer, format!("there is no anchor {name:?} before"), mark)),
            Some(Anchor::Open) => {
                let message = format!("the value of {name:?} contains itself");
                self.constructor
                    .defer(YamlError::new(Stage::Constructor, message, self.scanner.place_of(mark)));
                self.count(mark)?;
                Ok(Node::new(Kind::Null, self.scanner.place_of(mark)))
            }
            Some(Anchor::Known(node, size)) => {
                let (node, size) = (node.clone(), *size);
                self.nodes = self.nodes.saturating_add(size);
                self.alias_nodes = self.alias_nodes.saturating_add(size);
                if self.alias_nodes > self.limits.alias_nodes || self.nodes > self.limits.nodes {
                    let message = format!("aliases expand to more than {} values", self.limits.alias_nodes);
                    return Err(self.error(Stage::Limit, message, mark));
                }
                Ok(node)
            }
        }
    }

    fn properties(&mut self) -> Result<Properties<'t>, YamlError> {
        let mut properties = Properties::default();
        loop {
            match &self.scanner.peek()?.kind {
                TokenKind::Anchor(name) if properties.anchor.is_none() => {
                    properties.anchor = Some(name);
                    self.scanner.next()?;
                }
                TokenKind::Tag { .. } if properties.tag.is_none() => {
                    let token = self.scanner.next()?;
                    if let TokenKind::Tag { handle, suffix } = token.kind {
                        properties.tag = Some(self.full_tag(handle, suffix, token.mark)?);
                    }
                }
                _ => return Ok(properties),
            }
        }
    }

    fn full_tag(
        &self,
        handle: Option<Cow<'t, str>>,
        suffix: Cow<'t, str>,
        mark: Mark,
    ) -> Result<Cow<'t, str>, YamlError> {
        let Some(handle) = handle else { return Ok(suffix) };
        let declared = self.handles.iter().find(|(known, _)| *known == handle);
        let prefix = match (declared, &*handle) {
            (Some((_, prefix)), _) => prefix,
            (None, "!") => "!",
            (None, "!!") => CORE_PREFIX,
            _ => {
                return Err(self.error(
                    Stage::Parser,
                    format!("the handle {handle} of a tag is not declared"),
                    mark,
                ));
            }
        };
        Ok(Cow::Owned(format!("{prefix}{suffix}")))
    }

    fn content(
        &mut self,
        block: bool,
        indentless: bool,
        start: Mark,
        properties: Properties<'t>,
    ) -> Result<Node, YamlError> {
        let token = self.scanner.peek()?;
        let mark = token.mark;
        match &token.kind {
            TokenKind::Scalar { .. } => {
                let token = self.scanner.next()?;
                self.count(mark)?;
                let place = self.scanner.place_of(mark);
                let TokenKind::Scalar { text, plain } = token.kind else {
                    return Ok(Node::new(Kind::Null, place));
                };
                Ok(self.constructor.scalar(text, plain, properties.tag.as_deref(), place))
            }
            TokenKind::BlockEntry if indentless => self.indentless_sequence(mark, &properties),
            TokenKind::FlowSequenceStart => self.flow_sequence(mark, &properties),
            TokenKind::FlowMappingStart => self.flow_mapping(mark, &properties),
            TokenKind::BlockSequenceStart if block => self.block_sequence(mark, &properties),
            TokenKind::BlockMappingStart if block => self.block_mapping(mark, &properties),
            _ if properties.anchor.is_some() || properties.tag.is_some() => self.empty(start, properties),
            other => {
                let message = format!("a value is expected, found {}", other.name());
                Err(self.error(Stage::Parser, message, mark))
            }
        }
    }

    /// A value that is not written.
    fn empty(&mut self, mark: Mark, properties: Properties<'t>) -> Result<Node, YamlError> {
        self.count(mark)?;
        let place = self.scanner.place_of(mark);
        Ok(self
            .constructor
            .scalar(Cow::Borrowed(""), true, properties.tag.as_deref(), place))
    }

    fn empty_here(&mut self) -> Result<Node, YamlError> {
        let mark = self.scanner.peek()?.mark;
        self.empty(mark, Properties::default())
    }

    fn begin(&mut self, mark: Mark, properties: &Properties<'t>, expected: Tagged) -> Result<(), YamlError> {
        self.count(mark)?;
        let place = self.scanner.place_of(mark);
        self.constructor
            .collection_tag(properties.tag.as_deref(), expected, place);
        Ok(())
    }

    fn block_sequence(&mut self, mark: Mark, properties: &Properties<'t>) -> Result<Node, YamlError> {
        self.begin(mark, properties, Tagged::Seq)?;
        self.scanner.next()?;
        let mut items = Vec::new();
        loop {
            let token = self.scanner.next()?;
            match token.kind {
                TokenKind::BlockEntry => {
                    let next = &self.scanner.peek()?.kind;
                    let item = if matches!(next, TokenKind::BlockEntry | TokenKind::BlockEnd) {
                        self.empty_here()?
                    } else {
                        self.node(true, false)?
                    };
                    items.push(item);
                }
                TokenKind::BlockEnd => {
                    let place = self.scanner.place_of(mark);
                    return Ok(self.constructor.sequence(items, place));
                }
                other => {
                    let message = format!("the next item of a list is expected, found {}", other.name());
                    return Err(self.error(Stage::Parser, message, token.mark));
                }
            }
        }
    }

    /// A list whose dashes stand at the column of its key.
    fn indentless_sequence(&mut self, mark: Mark, properties: &Properties<'t>) -> Result<Node, YamlError> {
        self.begin(mark, properties, Tagged::Seq)?;
        let mut items = Vec::new();
        while matches!(self.scanner.peek()?.kind, TokenKind::BlockEntry) {
            self.scanner.next()?;
            let item = match self.scanner.peek()?.kind {
                TokenKind::BlockEntry | TokenKind::Key | TokenKind::Value | TokenKind::BlockEnd => self.empty_here()?,
                _ => self.node(true, false)?,
            };
            items.push(item);
        }
        let place = self.scanner.place_of(mark);
        Ok(self.constructor.sequence(items, place))
    }

    fn block_mapping(&mut self, mark: Mark, properties: &Properties<'t>) -> Result<Node, YamlError> {
        self.begin(mark, properties, Tagged::Map)?;
        self.scanner.next()?;
        let mut entries = Vec::new();
        loop {
            let token = self.scanner.next()?;
            match token.kind {
                TokenKind::Key => {
                    let key = self.block_mapping_part()?;
                    let value = if matches!(self.scanner.peek()?.kind, TokenKind::Value) {
                        self.scanner.next()?;
                        self.block_mapping_part()?
                    } else {
                        self.empty_here()?
                    };
                    entries.push((key, value));
                }
                TokenKind::BlockEnd => {
                    let place = self.scanner.place_of(mark);
                    return Ok(self.constructor.mapping(entries, place));
                }
                other => {
                    let message = format!("the next key of a mapping is expected, found {}", other.name());
                    return Err(self.error(Stage::Parser, message, token.mark));
                }
            }
        }
    }

    fn block_mapping_part(&mut self) -> Result<Node, YamlError> {
        match self.scanner.peek()?.kind {
            TokenKind::Key | TokenKind::Value | TokenKind::BlockEnd => self.empty_here(),
            _ => self.node(true, true),
        }
    }

    fn flow_sequence(&mut self, mark: Mark, properties: &Properties<'t>) -> Result<Node, YamlError> {
        self.begin(mark, properties, Tagged::Seq)?;
        self.scanner.next()?;
        let mut items: Vec<Node> = Vec::new();
        while !matches!(self.scanner.peek()?.kind, TokenKind::FlowSequenceEnd) {
            if !items.is_empty() {
                self.flow_entry("]")?;
            }
            let next = self.scanner.peek()?;
            let next_mark = next.mark;
            match next.kind {
                TokenKind::Key => {
                    self.count(next_mark)?;
                    self.scanner.next()?;
                    let pair = self.flow_pair(false)?;
                    let place = self.scanner.place_of(next_mark);
                    items.push(self.constructor.mapping(vec![pair], place));
                }
                TokenKind::FlowSequenceEnd => break,
                _ => items.push(self.node(false, false)?),
            }
        }
        self.scanner.next()?;
        let place = self.scanner.place_of(mark);
        Ok(self.constructor.sequence(items, place))
    }

    fn flow_mapping(&mut self, mark: Mark, properties: &Properties<'t>) -> Result<Node, YamlError> {
        self.begin(mark, properties, Tagged::Map)?;
        self.scanner.next()?;
        let mut entries = Vec::new();
        while !matches!(self.scanner.peek()?.kind, TokenKind::FlowMappingEnd) {
            if !entries.is_empty() {
                self.flow_entry("}")?;
            }
            match self.scanner.peek()?.kind {
                TokenKind::Key => {
                    self.scanner.next()?;
                    entries.push(self.flow_pair(true)?);
                }
                TokenKind::FlowMappingEnd => break,
                _ => {
                    let key = self.node(false, false)?;
                    entries.push((key, self.empty_here()?));
                }
            }
        }
        self.scanner.next()?;
        let place = self.scanner.place_of(mark);
        Ok(self.constructor.mapping(entries, place))
    }

    fn flow_entry(&mut self, end: &str) -> Result<(), YamlError> {
        let token = self.scanner.next()?;
        if matches!(token.kind, TokenKind::FlowEntry) {
            return Ok(());
        }
        let message = format!("',' or '{end}' is expected, found {}", token.kind.name());
        Err(self.error(Stage::Parser, message, token.mark))
    }

    /// A key with its value between brackets, from behind the mark of the key on.
    fn flow_pair(&mut self, in_mapping: bool) -> Result<(Node, Node), YamlError> {
        let ends = |kind: &TokenKind<'_>| match kind {
            TokenKind::FlowEntry => true,
            TokenKind::FlowMappingEnd => in_mapping,
            TokenKind::FlowSequenceEnd => !in_mapping,
            _ => false,
        };
        let next = &self.scanner.peek()?.kind;
        let key = if matches!(next, TokenKind::Value) || ends(next) {
            self.empty_here()?
        } else {
            self.node(false, false)?
        };
        if !matches!(self.scanner.peek()?.kind, TokenKind::Value) {
            return Ok((key, self.empty_here()?));
        }
        self.scanner.next()?;
        let value = if ends(&self.scanner.peek()?.kind) {
            self.empty_here()?
        } else {
            self.node(false, false)?
        };
        Ok((key, value))
    }
}

/// Texts that were met before, so that a key that stands in a file ten thousand times is one text.
#[derive(Default)]
pub(crate) struct Interner<'t>(HashMap<&'t str, Text, std::hash::BuildHasherDefault<rustc_hash::FxHasher>>);

/// Longer texts seldom repeat.
const INTERNED_BYTES_MAX: usize = 64;

impl<'t> Interner<'t> {
    pub(crate) fn text(&mut self, text: Cow<'t, str>) -> Text {
        match text {
            Cow::Borrowed(text) if text.len() <= INTERNED_BYTES_MAX => {
                self.0.entry(text).or_insert_with(|| Text::from(text)).clone()
            }
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text.into(),
        }
    }
}
