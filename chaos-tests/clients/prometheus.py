"""Reads a page of metrics from standard input as Prometheus does, and fails where it would refuse or drop something.

Prints {"name{label=value,...}": value, ...} as JSON.
"""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families

samples = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation and family.type != "unknown", f"{family.name} has no HELP or TYPE"
    for sample in family.samples:
        labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
        key = f"{sample.name}{{{labels}}}" if labels else sample.name
        assert key not in samples, f"{key} is there twice"
        samples[key] = sample.value
print(json.dumps(samples))
