//! What is wrong with a blueprint, and where.

use conclave_yaml::Place;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The reference's number (spec/dsl.md, section 19); none for texts that are no YAML.
    pub code: Option<i32>,
    /// What is wrong, what was expected, and what may have been meant.
    pub message: String,
    /// The file that it stands in.
    pub file: String,
    /// From 1; 0 when the whole file is meant.
    pub line: u32,
    /// From 1; 0 when the whole file is meant.
    pub column: u32,
    /// The element: `node_templates.page.type`.
    pub path: String,
}

impl Diagnostic {
    pub(crate) fn new(
        code: i32,
        message: impl Into<String>,
        file: &str,
        place: Place,
        path: impl Into<String>,
    ) -> Self {
        Self {
            code: Some(code),
            message: message.into(),
            file: file.to_owned(),
            line: place.line,
            column: place.column,
            path: path.into(),
        }
    }
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\n  in: {}\n  in line: {}, column: {}",
            self.message, self.file, self.line, self.column
        )?;
        if self.path.is_empty() {
            Ok(())
        } else {
            write!(f, "\n  path: {}", self.path)
        }
    }
}

/// A hint at the name that was probably meant: the one with the fewest edits, if they are few.
pub(crate) fn suggestion<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> String {
    let limit = wanted.len() / 3 + 1;
    let nearest = known.map(|name| (distance(wanted, name), name)).min();
    match nearest {
        Some((edits, name)) if edits <= limit => format!("; did you mean {name:?}?"),
        _ => String::new(),
    }
}

/// Levenshtein's distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let known = ["cloudify.nodes.Root", "cloudify.nodes.Compute"];
        assert!(suggestion("cloudify.nodes.Rot", known.into_iter()).contains("Root"));
        assert_eq!(suggestion("x", known.into_iter()), "");
    }
}
