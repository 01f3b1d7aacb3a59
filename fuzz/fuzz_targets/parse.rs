//! Any blueprint of several files becomes a plan or diagnostics.

#![no_main]

use conclave_blueprint::{Options, Plan, parse_with};
use conclave_fuzz::Files;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let files = Files::new(input);
    for validate_version in [true, false] {
        let options = Options {
            validate_version,
            ..Options::default()
        };
        if let Ok(plan) = parse_with("blueprint.yaml", &files, &options) {
            let json = plan.to_json();
            let again = Plan::from_json(&json).expect("a plan comes back from its JSON");
            assert_eq!(again.to_json(), json);
            let _ = conclave_drawing::svg(&plan);
        }
    }
});
