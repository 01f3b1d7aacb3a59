//! Reads a blueprint with all that it imports, breadth first, and merges it (spec/dsl.md, sections 3 and 5).

use std::collections::{HashMap, VecDeque};

use conclave_yaml::{Kind, Limits, Node, Place, Stage, Text, YamlError};
use indexmap::IndexMap;

use super::imports::{Entry, Target, entries_of, is_builtin_types, set_plugin_properties};
use super::merge::Merger;
use super::{Document, Section, plugin_import};
use crate::diagnostic::Report;
use crate::namespace::prefixed;
use crate::resolver::{Import, Resolver};
use crate::shape::{self, Checker};
use crate::version::{minor_of, version_error};
use crate::{Class, Fault};

/// More files than this are no blueprint.
const FILES_MAX: usize = 2_000;
/// More text than this is no blueprint.
const BYTES_MAX: usize = 256 << 20;
/// Name spaces may be nested so deep; a file that imports itself under a name would go on for ever.
const NAMESPACES_MAX: usize = 24;
/// Blueprints may import blueprints so deep.
const BLUEPRINTS_MAX: usize = 12;

/// What may still be read.
pub(crate) struct Budget {
    files: usize,
    bytes: usize,
    blueprints: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            files: FILES_MAX,
            bytes: BYTES_MAX,
            blueprints: BLUEPRINTS_MAX,
        }
    }
}

/// A blueprint with all its imports merged in.
pub(crate) struct Loaded {
    pub(crate) document: Document,
    /// The version as the main file names it.
    pub(crate) version: Text,
    pub(crate) minor: u32,
    /// The location of the main file.
    pub(crate) main: String,
    /// Whether some file could not be read or merged in: what is missing then says nothing.
    pub(crate) is_partial: bool,
}

/// Checks a blueprint that another one imports; true if it is in order.
pub(crate) type CheckImported<'c> = &'c dyn Fn(&Loaded, &mut Report) -> bool;

/// Reads one blueprint.
pub(crate) struct Loader<'a> {
    pub(crate) resolver: &'a dyn Resolver,
    pub(crate) report: &'a mut Report,
    /// Whether the version of the language matters; not in imported blueprints.
    pub(crate) checks_version: bool,
    pub(crate) is_imported: bool,
    pub(crate) budget: &'a mut Budget,
    pub(crate) check_imported: CheckImported<'a>,
}

/// One file.
struct File {
    location: String,
    namespace: Option<String>,
    document: Document,
    properties: Option<Node>,
    /// Where it is imported.
    place: Place,
    is_types: bool,
}

type FileKey = (String, Option<String>);

impl Loader<'_> {
    /// Reads the main file at a location and everything that it imports. None when there is nothing to go on with; the report
    /// then says why.
    pub(crate) fn load(&mut self, main: &str) -> Option<Loaded> {
        let text = match self.resolver.read(main) {
            Ok(text) => text,
            Err(why) => {
                let message = format!("the main file '{main}' cannot be read: {why}");
                self.report.add(Fault::logic(30, message, ""), Place::default());
                return None;
            }
        };
        let root = self.parse_text(main, text)?;
        let document = self.main_document(root)?;
        let (version, minor) = self.version_of(&document)?;
        self.check_definitions(&document, minor);
        let faults = self.report.count();
        let mut mapping = IndexMap::new();
        let files = self.load_imports(main, document, minor, &mut mapping);
        let imports_failed = self.report.count() > faults;
        let merged = self.merge(files, &version, minor, &mapping);
        Some(Loaded {
            document: merged,
            version,
            minor,
            main: main.to_owned(),
            is_partial: imports_failed,
        })
    }

    fn parse_text(&mut self, location: &str, text: String) -> Option<Node> {
        let over = self.budget.files == 0 || text.len() > self.budget.bytes;
        let name = self.resolver.display_name(location);
        let source = if over {
            None
        } else {
            self.report.add_source(&name, text.as_str().into())
        };
        let Some(source) = source else {
            let message = format!("more than {FILES_MAX} files or {BYTES_MAX} bytes are imported");
            self.report
                .add(Fault::new(Class::Limit, message, "imports"), Place::default());
            return None;
        };
        self.budget.files -= 1;
        self.budget.bytes -= text.len();
        let limits = Limits {
            ascii_only: true,
            ..Limits::default()
        };
        match conclave_yaml::parse_source(&text, source, &limits) {
            Ok(root) => Some(root),
            Err(error) => {
                let place = error.place;
                self.report.add(yaml_fault(error), place);
                None
            }
        }
    }

    fn main_document(&mut self, root: Node) -> Option<Document> {
        match document_of(root) {
            Ok((document, odd)) => {
                for key in odd {
                    let message = format!("Dict keys must be strings but found '{}'", key.key_text());
                    self.report.add(Fault::coded(Class::Format, 1, message, ""), key.place);
                }
                Some(document)
            }
            Err(root) => {
                let message = format!("Expected 'dict' type but found '{}' type", root.type_name());
                self.report.add(Fault::coded(Class::Format, 1, message, ""), root.place);
                None
            }
        }
    }

    fn version_of(&mut self, document: &Document) -> Option<(Text, u32)> {
        const VERSION: &str = "tosca_definitions_version";
        let section = document.section(VERSION);
        let value = section.map(Section::to_node);
        match value {
            Some(node) if !node.is_null() => {
                let Some(text) = node.as_text() else {
                    let message = format!("Expected 'string' type but found '{}' type", node.type_name());
                    self.report
                        .add(Fault::coded(Class::Format, 1, message, VERSION), node.place);
                    return None;
                };
                let Some(minor) = minor_of(text) else {
                    let (fault, suggestion) = version_error(text);
                    self.report.add_with(fault, node.place, suggestion);
                    return None;
                };
                Some((text.clone(), minor))
            }
            _ => {
                let message = "tosca_definitions_version field must appear in the main blueprint file, such as \
                               'tosca_definitions_version: cloudify_dsl_1_3'";
                let place = section.map_or(document.place, |section| section.key.place);
                self.report.add(Fault::logic(27, message, VERSION), place);
                None
            }
        }
    }

    fn check_definitions(&mut self, document: &Document, minor: u32) {
        let Some((section, field)) = document
            .section("dsl_definitions")
            .zip(shape::section("dsl_definitions"))
        else {
            return;
        };
        let node = section.to_node();
        let minor = self.checks_version.then_some(minor);
        let mut checker = Checker::new(self.report, minor);
        checker.check_section_version(field, &section.key, node.is_null());
        checker.check_at(&["dsl_definitions"], field.element, &node);
    }

    /// Reads the imports of the main file, theirs, and so on.
    fn load_imports(
        &mut self,
        main: &str,
        document: Document,
        minor: u32,
        mapping: &mut IndexMap<String, String>,
    ) -> Vec<File> {
        let mut files = vec![File {
            location: main.to_owned(),
            namespace: None,
            place: document.place,
            document,
            properties: None,
            is_types: false,
        }];
        let mut seen: HashMap<FileKey, usize> = HashMap::from([((main.to_owned(), None), 0)]);
        let mut queue = VecDeque::from([0]);
        while let Some(parent) = queue.pop_front() {
            let checks = self.checks_version.then_some(minor);
            let entries = entries_of(&files[parent].document, parent == 0, checks, self.report);
            for entry in entries {
                let file = match self.fetch(&entry, &files[parent], minor, &seen, &files, mapping) {
                    Ok(Some(file)) => file,
                    Ok(None) => continue,
                    Err(None) => continue,
                    Err(Some(fault)) => {
                        self.report.add(fault, entry.place);
                        continue;
                    }
                };
                let key = (file.location.clone(), file.namespace.clone());
                if let std::collections::hash_map::Entry::Vacant(slot) = seen.entry(key) {
                    slot.insert(files.len());
                    queue.push_back(files.len());
                    files.push(file);
                }
            }
        }
        files
    }

    /// Reads what an entry names. `Ok(None)` when it is there already, `Err(None)` when the report says why it failed.
    fn fetch(
        &mut self,
        entry: &Entry,
        parent: &File,
        minor: u32,
        seen: &HashMap<FileKey, usize>,
        files: &[File],
        mapping: &mut IndexMap<String, String>,
    ) -> Result<Option<File>, Option<Fault>> {
        let namespace = match (&parent.namespace, &entry.namespace) {
            (Some(outer), Some(inner)) => Some(prefixed(outer, inner)),
            (outer, inner) => outer.clone().or_else(|| inner.clone()),
        };
        if namespace
            .as_ref()
            .is_some_and(|name| name.matches("--").count() >= NAMESPACES_MAX)
        {
            let message = format!("name spaces are nested deeper than {NAMESPACES_MAX} levels");
            return Err(Some(Fault::new(Class::Limit, message, "imports")));
        }
        let mut failure = None;
        for location in self.candidates(entry, parent, minor) {
            if let Some(known) = seen.get(&(location.clone(), namespace.clone())) {
                check_types_namespace(files[*known].is_types, namespace.as_deref(), parent)?;
                return Ok(None);
            }
            let read = self.read_target(&entry.target, &location, namespace.as_deref(), minor, mapping);
            let (document, plugin_location) = match read {
                Ok(found) => found,
                Err(Some(fault)) if fault.code == Some(13) => {
                    failure = Some(fault);
                    continue;
                }
                Err(other) => return Err(other),
            };
            let is_types = is_builtin_types(&document).map_err(Some)?;
            check_types_namespace(is_types, namespace.as_deref(), parent)?;
            return Ok(Some(File {
                location: plugin_location,
                namespace: if is_types { None } else { namespace },
                document,
                properties: entry.properties.clone(),
                place: entry.place,
                is_types,
            }));
        }
        Err(Some(failure.unwrap_or_else(|| {
            let message = format!("Import failed: no suitable location found for import '{}'", entry.text);
            Fault::logic(13, message, "imports")
        })))
    }

    fn candidates(&self, entry: &Entry, parent: &File, minor: u32) -> Vec<String> {
        let path = match &entry.target {
            Target::Path(path) => path,
            Target::Url(url) => return self.resolver.locate(Import::Url(url)).into_iter().collect(),
            Target::Plugin(_) | Target::Blueprint(_) => return vec![entry.resource.clone()],
        };
        let versioned = versioned(path, minor);
        [
            Import::Working(&versioned),
            Import::Working(path),
            Import::Beside {
                from: &parent.location,
                path,
            },
            Import::Resource(&versioned),
            Import::Resource(path),
        ]
        .into_iter()
        .filter_map(|import| self.resolver.locate(import))
        .collect()
    }

    fn read_target(
        &mut self,
        target: &Target,
        location: &str,
        namespace: Option<&str>,
        minor: u32,
        mapping: &mut IndexMap<String, String>,
    ) -> Result<(Document, String), Option<Fault>> {
        let document = match target {
            Target::Blueprint(id) => self.read_blueprint(id, location, namespace, mapping)?,
            Target::Plugin(spec) => {
                let (plugin, file) = plugin_import::find(spec, self.resolver, minor).map_err(Some)?;
                let mut document = self.read_file(&file)?;
                if let Some(record) = &plugin.record {
                    plugin_import::take_record(&mut document, record, namespace);
                }
                document
            }
            Target::Path(_) | Target::Url(_) => self.read_file(location)?,
        };
        Ok((document, location.to_owned()))
    }

    fn read_file(&mut self, location: &str) -> Result<Document, Option<Fault>> {
        let text = self.resolver.read(location).map_err(|why| {
            let message = format!("Import failed: Unable to open import url {location}; {why}");
            Some(Fault::logic(13, message, "imports"))
        })?;
        let root = self.parse_text(location, text).ok_or(None)?;
        match document_of(root) {
            Ok((document, odd)) => {
                // Keys that are no texts are no sections; the whole is checked once it is merged.
                for key in odd {
                    let message = format!("Dict keys must be strings but found '{}'", key.key_text());
                    self.report.add(Fault::coded(Class::Format, 1, message, ""), key.place);
                }
                Ok(document)
            }
            Err(root) => {
                let message = format!("a mapping of sections is expected, found '{}'", root.type_name());
                self.report.add(Fault::new(Class::Value, message, ""), root.place);
                Err(None)
            }
        }
    }

    fn read_blueprint(
        &mut self,
        id: &str,
        location: &str,
        namespace: Option<&str>,
        mapping: &mut IndexMap<String, String>,
    ) -> Result<Document, Option<Fault>> {
        let Some(namespace) = namespace else {
            let message = format!("Invalid {location}: blueprint import cannot be used without namespace");
            return Err(Some(Fault::logic(213, message, "imports")));
        };
        if mapping.contains_key(namespace) {
            let message = format!("Import failed {namespace}: can not use the same namespace for importing blueprints");
            return Err(Some(Fault::logic(214, message, "imports")));
        }
        mapping.insert(namespace.to_owned(), id.to_owned());
        let not_found = || {
            Fault::new(
                Class::InvalidBlueprintImport,
                format!("Requested blueprint import `{id}` was not found"),
                "imports",
            )
        };
        let main = self.resolver.blueprint(id).ok_or_else(|| Some(not_found()))?;
        if self.budget.blueprints == 0 {
            let message = format!("blueprints import each other deeper than {BLUEPRINTS_MAX} levels");
            return Err(Some(Fault::new(Class::Limit, message, "imports")));
        }
        self.budget.blueprints -= 1;
        let loaded = Loader {
            resolver: self.resolver,
            report: self.report,
            checks_version: false,
            is_imported: true,
            budget: self.budget,
            check_imported: self.check_imported,
        }
        .load(&main);
        self.budget.blueprints += 1;
        let loaded = loaded.ok_or(None)?;
        if (self.check_imported)(&loaded, self.report) {
            Ok(loaded.document)
        } else {
            Err(None)
        }
    }

    fn merge(&mut self, files: Vec<File>, version: &Text, minor: u32, mapping: &IndexMap<String, String>) -> Document {
        let start = files.first().map_or_else(Place::default, |file| file.document.place);
        let mut merged = Document {
            place: start,
            ..Document::default()
        };
        let nowhere = Place { line: 0, ..start };
        let text = |text: &String| Node::text(text.as_str(), nowhere);
        merged.set(
            "imported_blueprints",
            Node::seq(mapping.values().map(text).collect(), nowhere),
        );
        let pairs = mapping.iter().map(|(namespace, id)| (text(namespace), text(id)));
        merged.set("namespaces_mapping", Node::map(pairs.collect(), nowhere));
        for mut file in files {
            if self.checks_version {
                self.check_import_version(&file, version, minor);
            }
            if let Err((fault, place)) = set_plugin_properties(&mut file.document, file.properties.as_ref()) {
                self.report.add(fault, place.unwrap_or(file.place));
            }
            let is_types = match is_builtin_types(&file.document) {
                Ok(is_types) => is_types,
                Err(fault) => {
                    self.report.add(fault, file.document.place);
                    continue;
                }
            };
            Merger {
                report: self.report,
                minor,
                list_inputs: !self.is_imported,
            }
            .merge(&mut merged, file.document, file.namespace.as_deref(), is_types);
        }
        merged.set("tosca_definitions_version", Node::text(version.clone(), nowhere));
        merged
    }

    fn check_import_version(&mut self, file: &File, version: &Text, minor: u32) {
        let Some(section) = file.document.section("tosca_definitions_version") else {
            return;
        };
        let node = section.to_node();
        let fault = match node.as_str().map(|text| (text, minor_of(text))) {
            Some((_, Some(own))) if own <= minor => return,
            Some((text, Some(_))) => {
                let message = format!(
                    "An import uses a different tosca_definitions_version than the one defined in the main blueprint's file: \
                     main blueprint's file version is '{version}', version of problematic import is '{text}'"
                );
                Fault::logic(28, message, "tosca_definitions_version")
            }
            _ => {
                let message = format!("'{}' is no version of the language", node.key_text());
                Fault::new(Class::Value, message, "tosca_definitions_version")
            }
        };
        self.report.add(fault, section.key.place);
    }
}

/// Built-in types cannot be imported under a name space of their own; below an inherited one they have none.
fn check_types_namespace(is_types: bool, namespace: Option<&str>, parent: &File) -> Result<(), Option<Fault>> {
    match namespace {
        Some(namespace) if is_types && parent.namespace.as_deref() != Some(namespace) => {
            let message = format!("Invalid import namespace {namespace}: cannot be used on Cloudify basic types.");
            Err(Some(Fault::logic(214, message, "imports")))
        }
        _ => Ok(()),
    }
}

/// `name_1_3.yaml` of `name.yaml`.
fn versioned(path: &str, minor: u32) -> String {
    let name_start = path.rfind('/').map_or(0, |slash| slash + 1);
    match path.rfind('.').filter(|dot| {
        path.get(name_start..*dot)
            .is_some_and(|stem| stem.contains(|c: char| c != '.'))
    }) {
        Some(dot) => format!("{}_1_{minor}{}", &path[..dot], &path[dot..]),
        None => format!("{path}_1_{minor}"),
    }
}

/// The sections of a file, and keys that are none. The root itself when it is no mapping.
fn document_of(root: Node) -> Result<(Document, Vec<Node>), Node> {
    let place = root.place;
    let entries = match root.kind {
        Kind::Map(entries) => entries,
        Kind::Null => Default::default(),
        _ => return Err(root),
    };
    let mut document = Document {
        place,
        ..Document::default()
    };
    let mut odd = Vec::new();
    for (key, value) in entries.iter() {
        match key.as_text() {
            Some(name) => {
                document
                    .sections
                    .insert(name.clone(), Section::new(key.clone(), value.clone()));
            }
            None => odd.push(key.clone()),
        }
    }
    Ok((document, odd))
}

fn yaml_fault(error: YamlError) -> Fault {
    let message = error.message;
    match error.stage {
        Stage::Parser => Fault::coded(Class::Format, -1, format!("Illegal yaml; {message}"), ""),
        Stage::Charset => Fault::coded(Class::InputType, 108, message, ""),
        Stage::Reader => Fault::new(Class::Reader, message, ""),
        Stage::Scanner => Fault::new(Class::Scanner, message, ""),
        Stage::Composer => Fault::new(Class::Composer, message, ""),
        Stage::Constructor => Fault::new(Class::Constructor, message, ""),
        Stage::Limit => Fault::new(Class::Limit, message, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_goes_before_the_extension() {
        assert_eq!(
            versioned("cloudify/types/types.yaml", 3),
            "cloudify/types/types_1_3.yaml"
        );
        assert_eq!(versioned("a.b/types", 4), "a.b/types_1_4");
        assert_eq!(versioned("a/.hidden", 4), "a/.hidden_1_4");
    }
}
