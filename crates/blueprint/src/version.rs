//! Versions of the language (spec/dsl.md, section 2).

use crate::diagnostic::nearest;
use crate::{Fault, plan};

/// The family of versions.
const FAMILY: &str = "cloudify_dsl";
const MINOR_MAX: u32 = 5;

/// The minor version that a name stands for; none for what is no version.
pub(crate) fn minor_of(name: &str) -> Option<u32> {
    (0..=MINOR_MAX).find(|minor| name.strip_prefix(FAMILY) == Some(&format!("_1_{minor}")))
}

/// The fault of naming a version that there is not.
pub(crate) fn version_error(name: &str) -> (Fault, Option<String>) {
    let known: Vec<String> = (0..=MINOR_MAX).map(|minor| format!("{FAMILY}_1_{minor}")).collect();
    let message = format!(
        "Unexpected tosca_definitions_version {name}; Currently supported versions are: {}",
        known.join(", ")
    );
    let suggestion = nearest(name, known.iter().map(String::as_str));
    (Fault::logic(29, message, "tosca_definitions_version"), suggestion)
}

/// The version as plans hold it.
pub(crate) fn plan_version(name: &str, minor: u32) -> plan::Version {
    plan::Version {
        raw: name.into(),
        definitions_name: FAMILY.into(),
        definitions_version: (1, minor),
    }
}
