"""Times what the original's parser does with one blueprint; prints the same line of JSON as `cargo xtask time`.

Runs in the environment that the original is installed in.
"""
import argparse
import json
import logging
import pathlib
import time

arguments = argparse.ArgumentParser()
arguments.add_argument('file')
arguments.add_argument('--resources', required=True)
arguments.add_argument('--deploy', action='store_true')
arguments.add_argument('--inputs')
options = arguments.parse_args()
logging.disable(logging.CRITICAL)

# What it costs to start is part of the process' time, not of the parser's.
from dsl_parser import parser, tasks  # noqa: E402
from dsl_parser.import_resolver.default_import_resolver import DefaultImportResolver  # noqa: E402


class FolderResolver(DefaultImportResolver):
    """Finds addresses and plugins in the folder of resources, as the manager finds them in its own."""

    def __init__(self, folder):
        self._plugins = folder / 'plugins'
        rules = json.loads((folder / 'resolver.json').read_text())['rules']
        super().__init__([{prefix: f'file:{folder}/{path}'} for rule in rules for prefix, path in rule.items()])

    def fetch_import(self, import_url, dsl_version='', **_):
        if not import_url.startswith('plugin:'):
            return super().fetch_import(import_url)
        package = self._plugins / import_url[len('plugin:'):].partition('?')[0]
        newest = max(package.iterdir(), key=lambda folder: [int(part) for part in folder.name.split('.')])
        suffix = dsl_version.removeprefix('cloudify_dsl') + '.yaml'
        files = sorted(newest.glob('*.yaml'), key=lambda file: not file.name.endswith(suffix))
        return files[0].read_text()

    def retrieve_plugin(self, import_url, **_):
        return None


inputs = json.load(open(options.inputs)) if options.inputs else {}

start = time.perf_counter()
plan = parser.parse_from_path(options.file, options.resources, FolderResolver(pathlib.Path(options.resources)))
parse_s = time.perf_counter() - start
start = time.perf_counter()
deployed = tasks.prepare_deployment_plan(plan, lambda name: 'secret', inputs) if options.deploy else None
deploy_s = time.perf_counter() - start if options.deploy else None

with open('/proc/self/status') as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith('VmHWM:'))
print(json.dumps({
    'nodes': len(plan['nodes']),
    'instances': len(deployed['node_instances']) if deployed else None,
    'parse_s': parse_s,
    'deploy_s': deploy_s,
    'peak_mib': peak / 1024,
}))
