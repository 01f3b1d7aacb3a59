"""Runs this parser and the original's over the same blueprints and writes down what that takes.

Standard library only.
"""
import argparse
import datetime
import json
import math
import os
import pathlib
import platform
import shutil
import statistics
import tempfile

import page

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
GENERATED = [100, 1_000, 5_000, 50_000]
# The original's time grows with the square of the number of templates.
ORIGINAL_MAX = 1_000

TYPES = '''
node_types:
  bench.Server:
    derived_from: cloudify.nodes.Compute
    properties:
      size: {default: {get_input: size}}
      tags: {default: [bench, {get_input: environment}]}
  bench.Service:
    derived_from: cloudify.nodes.SoftwareComponent
    properties:
      port: {type: integer}
      settings: {default: {retries: 3, hosts: [a, b, c]}}
    interfaces:
      cloudify.interfaces.lifecycle:
        create:
          implementation: scripts/create.sh
          inputs:
            port: {default: {get_property: [SELF, port]}}
        start: scripts/start.sh
'''


def generate(folder, count):
    """A blueprint of `count` templates: one server in ten, the others services in it, each connected to the one before."""
    lines = ['tosca_definitions_version: cloudify_dsl_1_3', 'imports: [cloudify/types/types.yaml]', 'inputs:',
             '  size: {type: string, default: large}', '  environment: {type: string, default: test}', TYPES,
             'node_templates:']
    for index in range(count):
        server = index - index % 10
        if index == server:
            lines.append(f'  server_{index}:\n    type: bench.Server\n    properties: {{ip: 10.0.{index // 250}.{index % 250}}}')
            continue
        lines.append(
            f'  service_{index}:\n    type: bench.Service\n    properties:\n      port: {8000 + index % 1000}\n'
            f'      settings: {{name: {{concat: [service-, {{get_property: [server_{server}, size]}}]}}, retries: {index % 7}}}\n'
            f'    relationships:\n      - {{type: cloudify.relationships.contained_in, target: server_{server}}}')
        if index > server + 1:
            lines.append(f'      - {{type: cloudify.relationships.connected_to, target: service_{index - 1}}}')
    lines.append('outputs:\n  first: {value: {get_attribute: [server_0, ip]}}')
    folder.mkdir(parents=True)
    (folder / 'scripts').mkdir()
    for script in ('create', 'start'):
        (folder / f'scripts/{script}.sh').write_text('#!/bin/sh\n')
    (folder / 'blueprint.yaml').write_text('\n'.join(lines) + '\n')
    return folder / 'blueprint.yaml'


def scaled(folder, count):
    """A node of `count` instances that stand on a server of two instances."""
    folder.mkdir(parents=True)
    (folder / 'blueprint.yaml').write_text(f'''tosca_definitions_version: cloudify_dsl_1_3
imports: [cloudify/types/types.yaml]
node_templates:
  server:
    type: cloudify.nodes.Compute
    capabilities: {{scalable: {{properties: {{default_instances: 2}}}}}}
  service:
    type: cloudify.nodes.Root
    capabilities: {{scalable: {{properties: {{default_instances: {count}}}}}}}
    relationships: [{{type: cloudify.relationships.connected_to, target: server}}]
''')
    return folder / 'blueprint.yaml'


def largest(corpus):
    """The real blueprint with the longest text."""
    files = [folder / json.loads((folder / 'case.json').read_text()).get('main', 'blueprint.yaml')
             for folder in sorted((corpus / 'blueprints').iterdir()) if (folder / 'inputs.json').exists()]
    return max(files, key=lambda file: file.stat().st_size)


def run(command):
    """The command's line of JSON, and the processor seconds of the whole process."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryDirectory() as empty:
        # The original looks for imports in the working directory first.
        before = os.getcwd()
        os.chdir(empty)
        try:
            actions = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1)]
            child = os.posix_spawn(command[0], command, dict(os.environ, PYTHONDONTWRITEBYTECODE='1'), file_actions=actions)
        finally:
            os.chdir(before)
        _, status, usage = os.wait4(child, 0)
        if status != 0:
            raise SystemExit(f'failed: {" ".join(command)}')
        out.seek(0)
        result = json.loads(out.read())
    result['cpu_s'] = usage.ru_utime + usage.ru_stime
    return result


def measure(command, repeats):
    """The medians of several runs."""
    runs = [run(command) for _ in range(repeats)]
    return {key: statistics.median(one[key] for one in runs) if isinstance(value, (int, float)) else value
            for key, value in runs[0].items()}


def number(value):
    """Three digits that count."""
    if value is None:
        return '–'
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f'{value:.{min(digits, 4)}f}'


def table(rows):
    head = ('| blueprint | templates | ours: parse s | deploy s | CPU s | peak MiB | original: parse s | deploy s | CPU s | peak MiB '
            '| parse, times faster | memory, times less |')
    lines = [head, '| --- |' + ' ---: |' * (head.count('|') - 2)]
    for row in rows:
        ours, original = row['ours'], row['original']
        cells = [row['name'], str(ours['nodes'])]
        for side in (ours, original):
            cells += [number(side[key]) if side else '–' for key in ('parse_s', 'deploy_s', 'cpu_s', 'peak_mib')]
        cells += [f"{original[key] / ours[key]:,.0f}" if original else '–' for key in ('parse_s', 'peak_mib')]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def plot(rows):
    """Parse time over the number of templates, both axes logarithmic."""
    width, height, left, bottom = 640, 400, 70, 50
    generated = [row for row in rows if row['name'].startswith('generated')]
    points = {side: [(row[side]['nodes'], row[side]['parse_s']) for row in generated if row[side]] for side in ('ours', 'original')}
    every = [point for side in points.values() for point in side]
    span = lambda values: (math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))))
    (x0, x1), (y0, y1) = span([x for x, _ in every]), span([y for _, y in every])
    place = lambda x, y: (left + (math.log10(x) - x0) / (x1 - x0) * (width - left - 20),
                          height - bottom - (math.log10(y) - y0) / (y1 - y0) * (height - bottom - 30))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui,sans-serif" font-size="12">'
           f'<rect width="{width}" height="{height}" fill="#fff"/><text x="{left}" y="18" font-weight="600">Parse time in seconds over '
           'the number of node templates</text>']
    for power in range(x0, x1 + 1):
        x, _ = place(10 ** power, 10 ** y0)
        out.append(f'<path d="M{x:.1f} 30V{height - bottom}" stroke="#e3e7ee"/><text x="{x:.1f}" y="{height - bottom + 18}" '
                   f'text-anchor="middle">{10 ** power:,}</text>')
    for power in range(y0, y1 + 1):
        _, y = place(10 ** x0, 10 ** power)
        out.append(f'<path d="M{left} {y:.1f}H{width - 20}" stroke="#e3e7ee"/><text x="{left - 8}" y="{y + 4:.1f}" '
                   f'text-anchor="end">{10.0 ** power:g}</text>')
    for side, colour, label in (('ours', '#2f6fc0', 'Conclave'), ('original', '#c2571a', 'original')):
        line = sorted(points[side])
        path = ' '.join('{:.1f},{:.1f}'.format(*place(*point)) for point in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += ['<circle cx="{:.1f}" cy="{:.1f}" r="3.5" fill="{}"/>'.format(*place(*point), colour) for point in line]
        x, y = place(*line[-1])
        out.append(f'<text x="{x - 8:.1f}" y="{y - 10:.1f}" text-anchor="end" fill="{colour}" font-weight="600">{label}</text>')
    return ''.join(out) + '</svg>\n'


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument('--ours', required=True)
    arguments.add_argument('--original', required=True)
    arguments.add_argument('--corpus', type=pathlib.Path, default=REPOSITORY.parent / 'shared/corpus')
    arguments.add_argument('--quick', action='store_true', help='one run of each, nothing larger than 1,000 templates')
    options = arguments.parse_args()
    resources = options.corpus.resolve() / 'resources'
    if not resources.is_dir():
        raise SystemExit(f'there is no corpus at {options.corpus}: give its folder by --corpus')
    work = pathlib.Path(tempfile.mkdtemp(prefix='conclave-bench-'))
    try:
        example = REPOSITORY / 'docs/examples/hello-world/blueprint.yaml'
        subjects = [('hello world', example), ('largest real blueprint', largest(options.corpus.resolve()))]
        sizes = [size for size in GENERATED if not options.quick or size <= ORIGINAL_MAX]
        subjects += [(f'generated, {size:,}', generate(work / str(size), size)) for size in sizes]
        subjects.append(('a node of 10,000 instances', scaled(work / 'scaled', 10_000)))
        rows = []
        for name, file in subjects:
            small = not name.startswith('generated') or int(name.split()[-1].replace(',', '')) < ORIGINAL_MAX
            repeats = 1 if options.quick else 9
            row = {'name': name}
            common = [str(file), '--resources', str(resources), '--deploy']
            conditions = file.parent / 'inputs.json'
            if conditions.exists():
                inputs = work / 'inputs.json'
                inputs.write_text(json.dumps(json.loads(conditions.read_text()).get('inputs') or {}))
                common += ['--inputs', str(inputs)]
            row['ours'] = measure([options.ours, 'time', *common], repeats)
            row['original'] = None
            if row['ours']['nodes'] <= ORIGINAL_MAX:
                script = str(REPOSITORY / 'deploy/benches/original.py')
                row['original'] = measure([options.original, script, *common], 3 if small and not options.quick else 1)
                for key in ('nodes', 'instances'):
                    if row['ours'][key] != row['original'][key]:
                        raise SystemExit(f'{name}: the two disagree about {key}')
            rows.append(row)
            print(json.dumps(row), flush=True)
    finally:
        shutil.rmtree(work)
    machine = {'system': platform.system(), 'processors': os.cpu_count(), 'python': platform.python_version()}
    page.write_plot('blueprints', plot(rows))
    page.write_part(
        'blueprints',
        '## Blueprints\n\nThis parser and the original\'s (cloudify-common 7.0.5), side by side in one run of `deploy/bench blueprints`: parsing a '
        'blueprint to a plan, and making a deployment plan of it. CPU and peak memory are those of the whole process, start '
        'included (for the original about half a second of imports). Medians; '
        f'{machine["processors"]} processors shared with other work, {datetime.date.today().isoformat()}. The original is run up to {ORIGINAL_MAX:,} '
        'templates, as its time grows with their square.\n\n' + table(rows) + '\n\n![Parse time over the number of templates]'
        '(benchmarks-blueprints.svg)\n')


if __name__ == '__main__':
    main()
