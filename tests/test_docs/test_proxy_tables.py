"""The figures on rates, stability and candidates are those of their runs."""

import csv
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
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
