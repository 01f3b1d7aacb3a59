//! Faults with their place in a file, and names that may have been meant.

use std::fmt;

use conclave_yaml::{Place, Text};

use crate::{Class, Fault};

/// A fault of a blueprint, where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Its kind.
    pub class: Class,
    /// Its number (spec/dsl.md, section 19), where the kind has numbers.
    pub code: Option<i32>,
    /// What is wrong, in words.
    pub message: String,
    /// The file; empty where no file is at fault.
    pub file: String,
    /// From 1; 0 where no line is at fault.
    pub line: u32,
    /// From 1; 0 where no line is at fault.
    pub column: u32,
    /// The dotted path of the element within the blueprint.
    pub path: String,
    /// The line of the file; empty where it cannot be shown.
    pub source_line: String,
    /// A name that may have been meant.
    pub suggestion: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(name) = &self.suggestion {
            write!(f, "; did you mean '{name}'?")?;
        }
        if !self.file.is_empty() {
            write!(f, "\n  in: {}", self.file)?;
        }
        if self.line > 0 {
            write!(f, "\n  in line: {}, column: {}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "\n  path: {}", self.path)?;
        }
        Ok(())
    }
}

/// All faults of a blueprint, the first ones first. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// The one that clients who expect a single fault are told.
    pub fn first(&self) -> &Diagnostic {
        self.0.first().expect("there is a fault wherever there are diagnostics")
    }
}

/// More faults than this are not reported: whoever reads them stops long before.
const FAULTS_MAX: usize = 200;

/// A file that was read: its name for people, and its text.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: Text,
}

/// Collects faults while a blueprint is read.
#[derive(Default)]
pub(crate) struct Report {
    sources: Vec<Source>,
    faults: Vec<(Rank, Diagnostic)>,
    stage: Stage,
}

/// What is being done while faults are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Stage {
    /// Files are read and merged.
    #[default]
    Load,
    /// Elements are made.
    Build,
    /// The finished plan is checked.
    Check,
}

/// When the original would have met a fault. It tells the first one only, so that the order decides what clients see.
type Rank = (Stage, usize);

/// Sections in the order in which the original goes through them: backwards, but for what others need.
const SECTIONS: [&str; 18] = [
    "resource_tags",
    "deployment_settings",
    "blueprint_labels",
    "labels",
    "capabilities",
    "data_types",
    "outputs",
    "plugins",
    "workflows",
    "node_types",
    "node_templates",
    "policy_types",
    "policy_triggers",
    "groups",
    "policies",
    "relationships",
    "inputs",
    "metadata",
];

fn rank(stage: Stage, fault: &Fault) -> Rank {
    /// The number of the fault of a circle, which is found before anything else is looked at.
    const CIRCLE: i32 = 100;
    let section = fault.path.split('.').next().unwrap_or_default();
    let at = match stage {
        Stage::Build if fault.code == Some(CIRCLE) => 0,
        Stage::Build => {
            SECTIONS
                .iter()
                .position(|known| *known == section)
                .unwrap_or(SECTIONS.len())
                + 1
        }
        Stage::Load | Stage::Check => 0,
    };
    (stage, at)
}

impl Report {
    /// Takes a file; answers the number that places in it carry, none when there are too many files.
    pub(crate) fn add_source(&mut self, name: &str, text: Text) -> Option<u16> {
        let number = u16::try_from(self.sources.len()).ok()?;
        self.sources.push(Source {
            name: name.to_owned(),
            text,
        });
        Some(number)
    }

    pub(crate) fn source_name(&self, place: Place) -> &str {
        self.sources
            .get(usize::from(place.source))
            .map_or("", |source| source.name.as_str())
    }

    pub(crate) fn enter(&mut self, stage: Stage) {
        self.stage = stage;
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn count(&self) -> usize {
        self.faults.len()
    }

    /// Adds a fault at a place. What was said of the same place before is not said again.
    pub(crate) fn add(&mut self, fault: Fault, place: Place) {
        self.add_with(fault, place, None);
    }

    pub(crate) fn add_with(&mut self, fault: Fault, place: Place, suggestion: Option<String>) {
        if self.faults.len() >= FAULTS_MAX {
            return;
        }
        let rank = rank(self.stage, &fault);
        let diagnostic = self.diagnostic(fault, place, suggestion);
        let is_known = |known: &Diagnostic| {
            (&known.file, known.line, known.column, &known.message)
                == (
                    &diagnostic.file,
                    diagnostic.line,
                    diagnostic.column,
                    &diagnostic.message,
                )
        };
        if !self.faults.iter().any(|(_, known)| is_known(known)) {
            self.faults.push((rank, diagnostic));
        }
    }

    fn diagnostic(&self, fault: Fault, place: Place, suggestion: Option<String>) -> Diagnostic {
        let source = self.sources.get(usize::from(place.source));
        let has_line = place.line > 0;
        Diagnostic {
            class: fault.class,
            code: fault.code,
            message: fault.message,
            file: source.map_or_else(String::new, |source| source.name.clone()),
            line: place.line,
            column: if has_line { u32::from(place.column) } else { 0 },
            path: fault.path,
            source_line: source
                .and_then(|source| source.text.lines().nth((place.line as usize).checked_sub(1)?))
                .unwrap_or_default()
                .to_owned(),
            suggestion,
        }
    }

    /// What is no fault, as one is shown.
    pub(crate) fn warnings(&self, of: impl IntoIterator<Item = (Fault, Place, Option<String>)>) -> Vec<Diagnostic> {
        of.into_iter()
            .take(FAULTS_MAX)
            .map(|(fault, place, suggestion)| self.diagnostic(fault, place, suggestion))
            .collect()
    }

    /// All faults, the first ones first; they are taken out.
    pub(crate) fn finish(&mut self) -> Diagnostics {
        if self.faults.is_empty() {
            let why = "the blueprint cannot be read";
            self.add(Fault::new(Class::Format, why, ""), Place::default());
        }
        self.faults.sort_by_key(|(rank, _)| *rank);
        Diagnostics(
            std::mem::take(&mut self.faults)
                .into_iter()
                .map(|(_, fault)| fault)
                .collect(),
        )
    }
}

/// The known name nearest to one that is not known, if any is near.
pub(crate) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<String> {
    /// Longer names are no slips of the pen, and comparing them costs the square of their length.
    const NAME_BYTES_MAX: usize = 120;
    /// Of more names than this the rest is not looked at.
    const NAMES_MAX: usize = 5_000;
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let allowed = (name.chars().count() / 3).clamp(1, 4);
    known
        .into_iter()
        .take(NAMES_MAX)
        .filter(|known| known.len() <= NAME_BYTES_MAX && known.len().abs_diff(name.len()) <= allowed * 4)
        .map(|known| (distance(name, known), known))
        .filter(|(distance, _)| (1..=allowed).contains(distance))
        .min()
        .map(|(_, known)| known.to_owned())
}

/// How many letters are wrong, missing, too many or swapped.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut current = vec![i + 1; b.len() + 1];
        for j in 0..b.len() {
            let changed = last[j] + usize::from(a[i] != b[j]);
            let swapped = if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                before[j - 1] + 1
            } else {
                usize::MAX
            };
            current[j + 1] = changed.min(current[j] + 1).min(last[j + 1] + 1).min(swapped);
        }
        before = std::mem::replace(&mut last, current);
    }
    last[b.len()].max(usize::from(a != b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found() {
        let known = ["cloudify.nodes.Compute", "cloudify.nodes.Root", "a"];
        assert_eq!(
            nearest("cloudify.nodes.Compte", known).as_deref(),
            Some("cloudify.nodes.Compute")
        );
        assert_eq!(
            nearest("cloudify.nodes.Rooot", known).as_deref(),
            Some("cloudify.nodes.Root")
        );
        assert_eq!(
            nearest("get_inptu", ["get_input", "get_property"]).as_deref(),
            Some("get_input")
        );
        assert_eq!(nearest("something.else", known), None);
        assert_eq!(nearest("", [""]), None);
    }

    #[test]
    fn a_fault_shows_its_line_once() {
        let mut report = Report::default();
        let number = report.add_source("a.yaml", "x: 1\ny: 2\n".into()).unwrap();
        let place = Place {
            source: number,
            line: 2,
            column: 4,
        };
        report.add(Fault::logic(7, "no such type", "y"), place);
        report.add(Fault::logic(7, "no such type", "y"), place);
        let faults = report.finish().0;
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].source_line, "y: 2");
        assert_eq!(
            faults[0].to_string(),
            "no such type\n  in: a.yaml\n  in line: 2, column: 4\n  path: y"
        );
    }
}
