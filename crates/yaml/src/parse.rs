//! From text to tree: what a text may cost, and the way in.

use crate::compose::Composer;
use crate::{Kind, Node, Place, Stage, YamlError};

/// What a text may cost, and hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How deep values may be nested.
    pub depth: usize,
    /// How many values the tree may hold once aliases are expanded.
    pub nodes: usize,
    /// How many of them may come from aliases.
    pub alias_nodes: usize,
    /// How long the text may be, in bytes.
    pub bytes: usize,
    /// Whether texts must be of ASCII characters alone.
    pub ascii_only: bool,
}

impl Default for Limits {
    /// Far above any real blueprint: 50,000 node templates make about 3 million values.
    fn default() -> Self {
        Self {
            depth: 200,
            nodes: 20_000_000,
            alias_nodes: 2_000_000,
            bytes: 128 << 20,
            ascii_only: false,
        }
    }
}

/// Reads a text that holds one document; an empty one is null.
///
/// # Errors
/// When it is no YAML, holds more than one document, an unknown tag or alias, or exceeds a limit.
pub fn parse(text: &str, limits: &Limits) -> Result<Node, YamlError> {
    parse_source(text, 0, limits)
}

/// The same for one text of several, whose number every place carries.
///
/// # Errors
/// As [`parse`].
pub fn parse_source(text: &str, source: u16, limits: &Limits) -> Result<Node, YamlError> {
    let start = Place {
        source,
        line: 1,
        column: 1,
    };
    if text.len() > limits.bytes {
        let message = format!("the text is longer than {} bytes", limits.bytes);
        return Err(YamlError::new(Stage::Limit, message, start));
    }
    check_characters(text, source)?;
    let root = Composer::new(text, source, limits).run()?;
    Ok(root.unwrap_or(Node::new(Kind::Null, start)))
}

/// Control characters and the like are no part of YAML.
fn check_characters(text: &str, source: u16) -> Result<(), YamlError> {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\t' | b'\r');
    if text.as_bytes().iter().all(is_plain) {
        return Ok(());
    }
    let is_printable = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}');
    let Some(at) = text.find(|c: char| !is_printable(c)) else {
        return Ok(());
    };
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let place = Place {
        source,
        line: u32::try_from(line).unwrap_or(u32::MAX),
        column: u16::try_from(column).unwrap_or(u16::MAX),
    };
    let message = format!(
        "the character {:?} is not allowed",
        text[at..].chars().next().unwrap_or_default()
    );
    Err(YamlError::new(Stage::Reader, message, place))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> serde_json::Value {
        crate::to_json(text).unwrap()
    }

    fn stage(text: &str) -> Stage {
        parse(text, &Limits::default()).unwrap_err().stage
    }

    #[test]
    fn values_know_their_place() {
        let node = parse_source("a: 1\nb:\n  - x\n  - {c: d}\n", 7, &Limits::default()).unwrap();
        let item = &node.get("b").unwrap().as_seq().unwrap()[1];
        assert_eq!((item.place.source, item.place.line, item.place.column), (7, 4, 5));
        assert_eq!(item.get("c").unwrap().place.line, 4);
    }

    #[test]
    fn blocks_flows_and_scalars_are_read() {
        assert_eq!(
            read("a:\n- b\n- c: 1\n  d: [x, {y: z}, 'q q', \"t\\tb\"]\ne:\n  f\n  g\n"),
            json!({"a": ["b", {"c": 1, "d": ["x", {"y": "z"}, "q q", "t\tb"]}], "e": "f g"})
        );
        assert_eq!(
            read("- |\n  a\n   b\n\n  c\n- >-\n  a\n  b\n\n  c\n- |+\n  x\n\n- y"),
            json!(["a\n b\n\nc\n", "a b\nc", "x\n\n", "y"])
        );
        assert_eq!(read("? a\n: b\n? c\n"), json!({"a": "b", "c": null}));
        assert_eq!(read("{a: , b, \"c\":d}"), json!({"a": null, "b": null, "c": "d"}));
        assert_eq!(read("[a: b, ? c : d]"), json!([{"a": "b"}, {"c": "d"}]));
        assert_eq!(read("a: b # c\nd: e#f"), json!({"a": "b", "d": "e#f"}));
        assert_eq!(
            read("'it''s':\r\n  \"two\r\n\r\n  lines\""),
            json!({"it's": "two\nlines"})
        );
        assert_eq!(read("--- >\n a\n b\n...\n"), json!("a b\n"));
        assert_eq!(
            read("%TAG !x! tag:yaml.org,2002:\n---\n[!x!str 1, !!int '2', ! '3']"),
            json!(["1", 2, 3])
        );
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
        assert_eq!(read("'<<': 1\n"), json!({"<<": 1}));
        let many: String = (0..100).map(|n| format!("k{}: {n}\n", n % 50)).collect();
        assert_eq!(read(&many)["k7"], json!(57));
    }

    #[test]
    fn quoted_scalars_are_texts() {
        assert_eq!(read("[yes, 'yes', \"1\", 1]"), json!([true, "yes", "1", 1]));
    }

    #[test]
    fn errors_know_their_stage() {
        for (text, expected) in [
            ("\tb: c", Stage::Scanner),
            ("a: b: c", Stage::Scanner),
            ("a: 'b", Stage::Scanner),
            ("a: \u{1}", Stage::Reader),
            ("a: [b", Stage::Parser),
            ("a: 'b'c", Stage::Parser),
            ("a:\n  b: 1\n c: 2", Stage::Parser),
            ("%YAML 2.0\n---\na", Stage::Parser),
            ("--- 1\n--- 2\n", Stage::Composer),
            ("a: *b", Stage::Composer),
            ("a: &x 1\nb: &x 2", Stage::Composer),
            ("a: !!python/object:os.system x", Stage::Constructor),
            ("a: =", Stage::Constructor),
            ("a: <<", Stage::Constructor),
            ("- =", Stage::Constructor),
            ("<<", Stage::Constructor),
            ("<<: 3", Stage::Constructor),
            ("? [a]\n: b", Stage::Constructor),
            ("2001-13-45", Stage::Constructor),
            ("a: &a [*a]", Stage::Constructor),
            ("!!str [a]", Stage::Constructor),
        ] {
            assert_eq!(stage(text), expected, "{text}");
        }
    }

    #[test]
    fn the_charset_may_be_narrow_and_comments_are_free() {
        let limits = Limits {
            ascii_only: true,
            ..Limits::default()
        };
        let error = parse("a: b # ä\nc: d\ne: ö\n", &limits).unwrap_err();
        assert_eq!(
            (error.stage, error.place.line, error.place.column),
            (Stage::Charset, 3, 4)
        );
        assert!(parse("a: b # ä\n", &limits).is_ok());
    }

    #[test]
    fn alias_bombs_and_deep_nests_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let last = level - 1;
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{last}"); 10].join(", "));
        }
        assert_eq!(stage(&bomb), Stage::Limit);
        assert_eq!(stage(&"[".repeat(10_000)), Stage::Limit);
        assert_eq!(stage(&"{a: ".repeat(10_000)), Stage::Limit);
        assert_eq!(stage(&"- ".repeat(10_000)), Stage::Limit);
        let deep: String = (0..10_000).map(|n| format!("{}k:\n", " ".repeat(n))).collect();
        assert_eq!(stage(&deep), Stage::Limit);
    }

    proptest! {
        #[test]
        fn any_text_ends_in_a_value_or_an_error(text in "[-a \n\t:,#&*!|>'\"%@\\[\\]{}?0-9é]{0,60}") {
            let limits = Limits { depth: 20, nodes: 1000, bytes: 1000, ..Limits::default() };
            let _either = parse(&text, &limits);
        }

        #[test]
        fn what_json_says_yaml_reads(value in any_json()) {
            let text = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(crate::to_json(&text).unwrap(), value);
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i32>().prop_map(serde_json::Value::from),
            "[ -~\n]{0,20}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
                prop::collection::hash_map("[a-z]{1,8}", inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
