"""Makes the table and the plot of docs/benchmarks.md, "Failover", of what failover-bench has written down.

Standard library only.
"""
import datetime
import json
import math
import os
import sys

import page

OURS = 'Conclave'
COLOURS = ['#2f6fc0', '#c2571a', '#7a8699', '#8a5fb0']
FAULTS = {
    'node': ('SIGKILL of the whole primary node', '1.0, p99 2'),
    'postgres': ('SIGKILL of PostgreSQL alone', '0.7'),
    'cut': ('primary cut off from both others', '1.5, p99 3'),
    'switchover': ('planned switchover', '0.3'),
}
RETURNS = {
    'back_plain': ('without rewind', '5'),
    'back_rewind': ('with rewind', '10'),
    'back_copy': ('as a copy of the primary', ''),
}


def quantile(values, share):
    """The nearest rank."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def cell(values):
    if not values:
        return '–'
    figures = [quantile(values, share) for share in (0.5, 0.99, 1)]
    return '{:.2f}, {:.2f}, {:.2f} ({})'.format(*figures, len(values))


def seconds(result, fault, key):
    return result.get(fault, {}).get(key, {}).get('s', [])


def table(results):
    names = list(results)
    lines = ['| s: p50, p99, max (trials) | ' + ' | '.join(names) + ' | goal |', '| --- |' + ' --- |' * (len(names) + 1)]

    def row(what, cells, goal):
        lines.append(f'| {what} | ' + ' | '.join(cells) + f' | {goal} |')

    for fault, (what, goal) in FAULTS.items():
        row(f'no write acknowledged: {what}', [cell(seconds(results[name], fault, 'gap')) for name in names], goal)
    for fault in FAULTS:
        for key, (how, goal) in RETURNS.items():
            cells = [seconds(results[name], fault, key) for name in names]
            if any(cells):
                row(f'old primary a standby again, {how}: {FAULTS[fault][0]}', [cell(values) for values in cells], goal)
    lost, there = [], []
    for name in names:
        faults = results[name].values()
        lost.append(f"{sum(one['lost'] for one in faults)} of {sum(one['acknowledged'] for one in faults)}")
        sides = results[name].get('cut', {}).get('lost_on_the_primarys_side', [])
        there.append(f'{min(sides)}–{max(sides)} a trial' if any(sides) else '0')
    row('acknowledged writes lost, of clients on the other nodes', lost, '0')
    row('acknowledged writes lost, of the client on the node that is cut off', there, '0')
    return '\n'.join(lines)


def plot(results):
    """Every trial as a dot, time on a logarithmic axis, a band for each fault."""
    width, left, top, band = 720, 210, 52, 30
    names = list(results)
    height = top + len(FAULTS) * (band * len(names) + 22) + 40
    low, high = 0.1, 100
    place = lambda value: left + (math.log10(max(value, low)) - math.log10(low)) / (math.log10(high) - math.log10(low)) * (width - left - 20)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui,sans-serif" font-size="12">'
           f'<rect width="{width}" height="{height}" fill="#fff"/><text x="10" y="20" font-weight="600">Time without an acknowledged '
           'write, in seconds (every trial; the line is the median)</text>']
    for value in (0.1, 0.3, 1, 3, 10, 30, 100):
        x = place(value)
        out.append(f'<path d="M{x:.1f} {top - 16}V{height - 34}" stroke="#e3e7ee"/><text x="{x:.1f}" y="{height - 16}" '
                   f'text-anchor="middle">{value:g}</text>')
    y = top
    for fault, (what, _) in FAULTS.items():
        out.append(f'<text x="10" y="{y + 4}" font-weight="600">{what}</text>')
        y += 18
        for name, colour in zip(names, COLOURS):
            values = seconds(results[name], fault, 'gap')
            out.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end" fill="{colour}">{name}</text>')
            for index, value in enumerate(values):
                # Apart from each other, so that they can be counted.
                shift = (index * 7 % 11 - 5) * 1.6
                out.append(f'<circle cx="{place(value):.1f}" cy="{y + shift:.1f}" r="2.4" fill="{colour}" fill-opacity="0.55"/>')
            if values:
                x = place(quantile(values, 0.5))
                out.append(f'<path d="M{x:.1f} {y - 11}v22" stroke="{colour}" stroke-width="2"/>')
            y += band
        y += 4
    return ''.join(out) + '</svg>\n'


def main():
    with open(sys.argv[1]) as file:
        results = json.load(file)
    results = {name: results[name] for name in sorted(results, key=lambda name: (name != OURS, name))}
    page.write_plot('failover', plot(results))
    page.write_part(
        'failover',
        "## Failover\n\nThis manager and Debian's Patroni 3.0.2 with Debian's etcd 3.4, on the same machine in one run of `deploy/bench failover`: release "
        'build, three nodes as network namespaces, a client on each that writes a row every 20 ms (here through its own node\'s proxy; '
        "of Patroni's by a list of all hosts and `target_session_attrs=read-write`, with half a second to connect). A gap is the longest time in which no client "
        "on another node than the old primary's had a write acknowledged. Patroni's default settings are a time to live of 30 s, a round every 10 s and "
        '10 s for a retry; the tightest that it takes are 10, 2 and 3 s. Both are asynchronous, as Patroni is by default. '
        f'{os.cpu_count()} processors, one virtual disk, {datetime.date.today().isoformat()}.\n\n' + table(results) +
        '\n\n![Time without an acknowledged write](benchmarks-failover.svg)\n')


if __name__ == '__main__':
    main()
