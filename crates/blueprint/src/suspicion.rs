//! What the language allows and nobody is likely to mean: a mapping that would be a call but for a letter. The original takes it
//! as the plain value that it is, so that it is no fault.

use conclave_yaml::{Kind, Node, Place};

use crate::diagnostic::nearest;
use crate::document::{Body, Document};
use crate::functions::FunctionName;

/// A mapping with one key that is nearly the name of a function.
pub(crate) struct NearlyCall {
    pub(crate) place: Place,
    pub(crate) name: String,
    pub(crate) meant: String,
}

/// Sections in which calls may stand.
const SECTIONS: [&str; 8] = [
    "node_templates",
    "outputs",
    "capabilities",
    "labels",
    "policies",
    "groups",
    "deployment_settings",
    "resource_tags",
];

/// Every one of them, in the order of the document.
pub(crate) fn nearly_calls(document: &Document) -> Vec<NearlyCall> {
    let mut found = Vec::new();
    for name in SECTIONS {
        match document.section(name).map(|section| &section.body) {
            Some(Body::Entries { entries, .. }) => entries.values().for_each(|entry| search(&entry.value, &mut found)),
            Some(Body::Plain(node)) => search(node, &mut found),
            None => {}
        }
    }
    found
}

fn search(node: &Node, found: &mut Vec<NearlyCall>) {
    match &node.kind {
        Kind::Map(entries) => {
            if let [(key, _)] = &entries[..]
                && let Some(name) = key.as_str()
                // Names of functions have a low line or are short words that plain values use as well.
                && name.contains('_')
                && let Some(meant) = nearest(name, FunctionName::ALL.into_iter().map(FunctionName::as_str))
            {
                found.push(NearlyCall {
                    place: key.place,
                    name: name.to_owned(),
                    meant,
                });
            }
            entries.iter().for_each(|(_, value)| search(value, found));
        }
        Kind::Seq(items) => items.iter().for_each(|item| search(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::{FolderResolver, validate};

    #[test]
    fn a_call_with_a_slip_is_told_and_what_is_a_value_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let text = "tosca_definitions_version: cloudify_dsl_1_3\n\
                    outputs:\n  a: {value: [{get_inptu: x}]}\n  b: {value: {contact: me}}\n  c: {value: {get_info: 1, x: 2}}\n";
        std::fs::write(folder.path().join("blueprint.yaml"), text).unwrap();
        let found = validate("blueprint.yaml", &FolderResolver::new(folder.path()));
        assert!(found.plan.is_ok());
        assert_eq!(found.warnings.len(), 1, "{:?}", found.warnings);
        assert_eq!((found.warnings[0].line, found.warnings[0].column), (3, 16));
        assert_eq!(found.warnings[0].suggestion.as_deref(), Some("get_input"));
    }
}
