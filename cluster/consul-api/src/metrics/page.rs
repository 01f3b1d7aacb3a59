//! Writing Prometheus' text format.

use std::fmt::Write;

/// A page in Prometheus' text format, version 0.0.4.
#[derive(Default)]
pub(super) struct Page {
    pub(super) text: String,
}

impl Page {
    pub(super) fn kind(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a text does not fail.
        let _infallible = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _infallible = if labels.is_empty() {
            writeln!(self.text, "{name} {value}")
        } else {
            writeln!(self.text, "{name}{{{labels}}} {value}")
        };
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.kind(name, "gauge", help);
        self.line(name, "", value);
    }

    /// A sum and a count, under a name of Consul's.
    pub(super) fn summary(&mut self, name: &str, sum: f64, count: u64) {
        self.kind(name, "summary", name);
        self.line(&format!("{name}_sum"), "", sum);
        self.line(&format!("{name}_count"), "", count);
    }
}

/// A label with its value.
pub(super) fn label(name: &str, value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{escaped}\"")
}
