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
    names.add('proxy.csv')  # of docs/method.md, see below
    assert names == {
        path.name for path in (ROOT / 'docs/results').glob('*.csv')
    }


METHOD = (ROOT / 'docs/method.md').read_text(encoding='utf-8')
RECIPES = (ROOT / 'configs/recipes/README.md').read_text(encoding='utf-8')
#: The steps of a run by its classes; others stand in no table.
STEPS = {12: 192, 20: 236, 80: 472}
#: Of the rates that the tables count in, by a class.
UNIT = 0.002


with (ROOT / 'docs/results/proxy.csv').open(encoding='utf-8') as file:
    ALL = [*csv.DictReader(file)]
POOLED = [
    r
    for r in ALL
    if (r['variant'], r['trained']) == ('fused', 'block, pooled')
    and int(r['steps']) == STEPS[int(r['classes'])]
]
#: By row, classes, rate and weight of the consistency.
RUNS = {
    (r['row'], int(r['classes']), float(r['rate']), float(r['weight'])): r
    for r in POOLED
    if r['seed'] == '0'
}


def table(text, first):
    """The table whose header starts with a word: header and lines."""
    found = re.search(rf'^\| {first}.*\n(?:\|.*\n)+', text, re.M)[0]
    rows = [
        [cell.strip(' `') for cell in line.strip('|').split('|')]
        for line in found.splitlines()
    ]
    return rows[0], rows[2:]


def check(cell, row, classes, rate, weight=0.1, group='total'):
    run = RUNS.get((row, classes, round(rate, 6), weight))
    assert cell == (f'{float(run[group]):.2f}' if run else '')


def test_rates_by_factors():
    header, lines = table(METHOD, 'classes, row')
    assert len(lines) == 6
    for name, *cells in lines:
        classes, row = name.replace('`', '').split(', ')
        rule = 0.006 * int(classes) ** 0.75
        for factor, cell in zip(header[1:], cells, strict=True):
            found = [
                float(r['total'])
                for r in POOLED
                if (r['row'], r['classes']) == (row, classes)
                and abs(float(r['rate']) / rule / float(factor) - 1) < 0.02
            ]
            assert float(cell) == pytest.approx(np.mean(found), abs=0.006)


def test_curves_over_rates():
    header, lines = table(METHOD, r'row \| 0.01')
    for row, *cells in lines:
        for rate, cell in zip(header[1:], cells, strict=True):
            check(cell, row.split('`')[0], 80, float(rate))


def test_weights_of_the_consistency():
    header, lines = table(METHOD, r'weight \|')
    for weight, *cells in lines:
        for row, cell in zip(header[1:], cells, strict=True):
            check(cell, row, 80, 0.1, float(weight))


@pytest.mark.parametrize(
    ('classes', 'columns'),
    [
        (80, {2: 'total', 3: 'head', 4: 'medium', 5: 'tail'}),
        (12, {6: 'total'}),
    ],
)
def test_candidates(classes, columns):
    for cells in table(RECIPES, r'row \| what')[1]:
        for column, group in columns.items():
            check(cells[column], cells[0], classes, UNIT * classes, 0.1, group)


def summary(row, classes, trained):
    """Means over the seeds, BatchNorm measured anew, by factors of UNIT."""
    variant = 'bn' if row.startswith('bce') else 'merged_bn'
    totals = defaultdict(list)
    for r in ALL:
        facts = (r['row'], r['variant'], int(r['classes']), r['trained'])
        if facts == (row, variant, classes, trained):
            factor = round(float(r['rate']) / (UNIT * classes), 2)
            totals[factor].append(float(r['total']))
    return ', '.join(
        f'{factor:g}: {np.mean(totals[factor]):.2f}'
        + (f' ({len(totals[factor])})' if totals[factor][1:] else '')
        for factor in sorted(totals)
    )


LINES = [
    (cells[0], classes, trained, cell)
    for heading, trained in (
        (r'candidate \|', 'block, pooled'),
        (r'last block \|', 'block'),
        (r'last stage \|', 'stage'),
    )
    for cells in table(RECIPES, heading)[1]
    for classes, cell in zip((80, 12), cells[2:4], strict=False)
]


@pytest.mark.parametrize(('row', 'classes', 'trained', 'cell'), LINES)
def test_candidates_by_factors(row, classes, trained, cell):
    assert cell == summary(row, classes, trained)
