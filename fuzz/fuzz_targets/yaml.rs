//! Any text is YAML or is refused; what is YAML becomes JSON.

#![no_main]

use conclave_yaml::{Limits, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(node) = parse(text, &Limits::default()) {
        let json = node.to_json().to_string();
        // What was written as JSON is YAML again, unless it has characters that YAML wants escaped and JSON does not.
        let again = parse(&json, &Limits::default());
        assert!(
            again.is_ok() || json.len() > 1_000 || json.contains(is_not_printable),
            "{json} cannot be read again: {again:?}"
        );
    }
});

/// YAML 1.1, section 4.1.1.
fn is_not_printable(c: char) -> bool {
    matches!(c, '\x7f'..='\u{84}' | '\u{86}'..='\u{9f}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}
