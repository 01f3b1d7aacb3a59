"""Writes what a benchmark has found into docs/benchmarks.md: each has a part of the page of its own, between two comments."""
import pathlib
import re

PAGE = pathlib.Path(__file__).resolve().parents[2] / 'docs/benchmarks.md'


def write_part(name, text):
    """Replaces a benchmark's part of the page; a new one comes to its end."""
    start, end = f'<!-- {name}: begin -->', f'<!-- {name}: end -->'
    page = PAGE.read_text()
    part = f'{start}\n{text}\n{end}'
    if start in page:
        page = re.sub(f'{re.escape(start)}.*{re.escape(end)}', lambda _: part, page, flags=re.S)
    else:
        page = page.rstrip() + f'\n\n{part}\n'
    PAGE.write_text(page)


def write_plot(name, svg):
    """Its plot lies beside the page."""
    (PAGE.parent / f'benchmarks-{name}.svg').write_text(svg)
