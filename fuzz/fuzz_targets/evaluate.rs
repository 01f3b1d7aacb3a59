//! Any value is evaluated at run time, or is refused with a fault.

#![no_main]

use conclave_blueprint::Value;
use conclave_blueprint::functions::{
    EvaluationContext, evaluate, evaluate_capabilities, evaluate_node, evaluate_node_instance, evaluate_outputs,
};
use conclave_fuzz::Store;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let Ok(json) = serde_json::from_str::<serde_json::Value>(input) else {
        return;
    };
    let payload = Value::from(&json["payload"]);
    let end = |key: &str| json["context"][key].as_str().map(str::to_owned);
    let context = EvaluationContext {
        self_id: end("self"),
        source_id: end("source"),
        target_id: end("target"),
        self_node: end("self_node"),
        source_node: end("source_node"),
        target_node: end("target_node"),
    };
    let store = Store(json.clone());
    let _ = evaluate(&payload, &context, &store);
    if let Value::Map(payload) = &payload {
        let _ = evaluate_outputs(payload, &store);
        let _ = evaluate_capabilities(payload, &store);
        let _ = evaluate_node(payload, end("instance").as_deref(), &store);
        let _ = evaluate_node_instance(payload, &store);
    }
});
