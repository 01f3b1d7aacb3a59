//! What the scanner cuts a text into.

use std::borrow::Cow;

/// A position in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    /// In bytes from the start of the text.
    pub index: usize,
    /// From 0.
    pub line: u32,
    /// In bytes from the start of the line.
    pub column: u32,
}

/// A piece of the text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token<'t> {
    pub kind: TokenKind<'t>,
    pub mark: Mark,
}

/// What a piece is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TokenKind<'t> {
    StreamEnd,
    YamlDirective {
        major: u64,
    },
    TagDirective {
        handle: Cow<'t, str>,
        prefix: Cow<'t, str>,
    },
    OtherDirective,
    DocumentStart,
    DocumentEnd,
    BlockSequenceStart,
    BlockMappingStart,
    BlockEnd,
    FlowSequenceStart,
    FlowMappingStart,
    FlowSequenceEnd,
    FlowMappingEnd,
    BlockEntry,
    FlowEntry,
    Key,
    Value,
    Alias(&'t str),
    Anchor(&'t str),
    Tag {
        handle: Option<Cow<'t, str>>,
        suffix: Cow<'t, str>,
    },
    Scalar {
        text: Cow<'t, str>,
        plain: bool,
    },
}

impl TokenKind<'_> {
    /// How messages name it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::StreamEnd => "the end of the text",
            Self::YamlDirective { .. } | Self::TagDirective { .. } | Self::OtherDirective => "a directive",
            Self::DocumentStart => "'---'",
            Self::DocumentEnd => "'...'",
            Self::BlockSequenceStart => "the start of a list",
            Self::BlockMappingStart => "the start of a mapping",
            Self::BlockEnd => "the end of a block",
            Self::FlowSequenceStart => "'['",
            Self::FlowMappingStart => "'{'",
            Self::FlowSequenceEnd => "']'",
            Self::FlowMappingEnd => "'}'",
            Self::BlockEntry => "'-'",
            Self::FlowEntry => "','",
            Self::Key => "'?'",
            Self::Value => "':'",
            Self::Alias(_) => "an alias",
            Self::Anchor(_) => "an anchor",
            Self::Tag { .. } => "a tag",
            Self::Scalar { .. } => "a scalar",
        }
    }
}
