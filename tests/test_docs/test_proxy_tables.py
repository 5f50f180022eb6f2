"""The figures on rates, stability and candidates are those of their runs."""

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METHOD = (ROOT / 'docs/method.md').read_text(encoding='utf-8')
RECIPES = (ROOT / 'configs/recipes/README.md').read_text(encoding='utf-8')
#: The steps of a run by its classes; others stand in no table.
STEPS = {12: 192, 20: 236, 80: 472}
RULE = 0.002


def read_runs():
    """Runs by row, classes, rate and weight of the consistency."""
    with (ROOT / 'docs/results/proxy.csv').open(encoding='utf-8') as file:
        return {
            (
                r['row'],
                int(r['classes']),
                float(r['rate']),
                float(r['weight']),
            ): r
            for r in csv.DictReader(file)
            if r['variant'] == 'fused'
            and r['seed'] == '0'
            and int(r['steps']) == STEPS[int(r['classes'])]
        }


RUNS = read_runs()


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


def test_rates_by_factors_of_the_rule():
    header, lines = table(METHOD, 'classes, row')
    for name, *cells in lines:
        classes, row = name.replace('`', '').split(', ')
        for factor, cell in zip(header[1:], cells, strict=True):
            rate = RULE * int(classes) * float(factor)
            check(cell, row, int(classes), rate)


def test_curves_over_rates():
    header, lines = table(METHOD, r'row \| 0.01')
    for row, *cells in lines:
        for rate, cell in zip(header[1:], cells, strict=True):
            check(cell, row, 80, float(rate))


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
            check(cells[column], cells[0], classes, RULE * classes, 0.1, group)
