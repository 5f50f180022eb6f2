"""The figures of the results are those of the runs beside them."""

import csv
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from ltml_cli.result_parsers import RECIPES, ROWS, VARIANTS
from ltml_mm.experiments.results import GROUPS
from ltml_mm.experiments.rows import Line

ROOT = Path(__file__).parents[2]
DOC = (ROOT / 'docs/results.md').read_text(encoding='utf-8')
README = (ROOT / 'README.md').read_text(encoding='utf-8')
SPECS = {
    line.label: str(line)
    for row in (*ROWS, *RECIPES)
    for line in (Line(row, variant) for variant in VARIANTS)
}


def read_runs(name):
    """Percent by row and variant, group and seed."""
    runs = defaultdict(lambda: defaultdict(dict))
    with (ROOT / 'docs/results' / name).open(encoding='utf-8') as file:
        for entry in csv.DictReader(file):
            # None of its own in a tuning.csv, which has a value.
            plain = entry.get('variant', 'fused') == 'fused'
            variant = '' if plain else '+' + entry['variant']
            rate = f'{float(entry.get("value", 0.01)):.2g}'
            if rate != '0.01':
                entry['row'] += '-lr' + rate.replace('.', '_')
            for group in GROUPS:
                value = float(entry[group])
                runs[entry['row'] + variant][group][entry['seed']] = value
    return runs


def tables():
    """Every table of rows: the name of its CSV, and its lines as dicts."""
    name, lines = '', []
    for line in [*DOC.splitlines(), '']:
        link = re.search(r'\]\(results/(\w+\.csv)\)', line)
        name = link[1] if link else name
        if line.startswith('|'):
            lines.append([cell.strip() for cell in line.strip('|').split('|')])
        elif lines:
            header, _, *body = lines
            if header[0] == 'row':
                yield (
                    name,
                    [dict(zip(header, cells, strict=True)) for cells in body],
                )
            lines = []


def spec_of(cell):
    quoted = re.match(r'`(.+?)`', cell)
    return quoted[1] if quoted else SPECS[cell]


def mean(values):
    values = [*values.values()]
    text = f'{np.mean(values):.2f}'
    return text + (f' ± {np.std(values, ddof=1):.2f}' if values[1:] else '')


def difference(own, reference):
    found = [own[seed] - reference[seed] for seed in own.keys() & reference]
    ahead = sum(value > 0 for value in found)
    value = f'{np.mean(found):+.2f}'
    if len(found) == 3:  # Student's 97.5 % quantile, 2 degrees of freedom
        half = 4.302653 * np.std(found, ddof=1) / 3**0.5
        low, high = np.mean(found) - half, np.mean(found) + half
        value += f' [{low:+.2f}, {high:+.2f}]'
    return f'{value}, {ahead} of {len(found)}'


RATES = [name for name, lines in tables() if 'seeds' not in lines[0]]


@pytest.mark.parametrize('name', RATES)
def test_tables_of_rates_follow_from_the_runs(name):
    """The row alone is the one at the shipped rate, 0.01."""
    runs = read_runs(name)
    for line in next(found for table, found in tables() if table == name):
        spec = spec_of(line.pop('row'))
        for rate, cell in line.items():
            change = f'-lr{rate.replace(".", "_")}' if rate != '0.01' else ''
            if cell:
                assert cell == mean(runs[spec + change]['total'])


@pytest.mark.parametrize(
    ('name', 'lines'),
    [(name, lines) for name, lines in tables() if name not in RATES],
)
def test_tables_follow_from_the_runs(name, lines):
    runs = read_runs(name)
    versus = [key for key in lines[0] if ' minus ' in key]
    reference = next(
        (line for line in lines if versus and line[versus[0]] == '-'), None
    )
    for line in lines:
        found = runs[spec_of(line['row'])]
        assert line['seeds'] == str(len(found['total'])), line
        for group in GROUPS:
            assert line[group] == mean(found[group]), (line, group)
        for key in versus:
            if line is reference:
                continue
            group = key.split()[0]
            own = found[group], runs[spec_of(reference['row'])][group]
            assert line[key] == difference(*own), (line, key)


def test_the_readme_repeats_lines_of_the_results():
    shown = re.findall(r'^\|[^|]+((?:\| [^|]+ ± [^|]+)+\|)', README, re.M)
    assert len(shown) > 3
    for cells in shown:
        assert cells in DOC, cells


def test_every_table_and_run_is_used():
    names = {name for name, _ in tables()}
    names.add('proxy.csv')  # of docs/method.md, see test_proxy_tables.py
    assert names == {
        path.name for path in (ROOT / 'docs/results').glob('*.csv')
    }
