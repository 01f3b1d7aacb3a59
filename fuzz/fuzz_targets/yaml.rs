//! Any text is YAML or is refused; what is YAML becomes JSON.

#![no_main]

use conclave_yaml::{Limits, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(node) = parse(text, &Limits::default()) {
        let json = node.to_json();
        // What was written as JSON is YAML again.
        let again = parse(&json.to_string(), &Limits::default());
        assert!(
            again.is_ok() || json.to_string().len() > 1_000,
            "{json} cannot be read again: {again:?}"
        );
    }
});
