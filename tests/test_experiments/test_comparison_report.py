"""A comparison's runs are read, compared by seed, and reported."""

import csv
import json
import statistics

import numpy as np
import pytest
from comparison_results import CLASSES, KEYS, make_result, write_result

from ltml_mm.experiments.comparison_report import (
    draw_groups,
    render_runs,
    render_tables,
    write_report,
)
from ltml_mm.experiments.results import paired_difference, read_results
from ltml_mm.experiments.rows import Line, parse_line

VALUES = {0: 57.5, 1: 59.25, 2: 58.0, 3: 61.5, 4: 60.0}
REFERENCE = {4: 59.0, 3: 60.0, 2: 58.0, 1: 58.0, 0: 58.5, 9: 0.0}
PAIRS = [VALUES[seed] - REFERENCE[seed] for seed in range(5)]


def test_only_the_asked_finished_runs_are_found(tmp_path):
    for row, seed in [('erm', 0), ('erm', 2), ('rs', 0), ('rs', 7)]:
        write_result(tmp_path, row, seed)
    # A run that was killed, and the temporary file of one killed later.
    folder = tmp_path / 'rs' / 'seed_1'
    folder.mkdir()
    (folder / '.result.json.42.tmp').write_text('{"row": "rs"')
    results = read_results(tmp_path, ['rs', 'erm', 'rs'], [0, 1, 2])
    assert [(r['row'], r['seed']) for r in results.found] == [
        ('rs', 0), ('erm', 0), ('erm', 2),
    ]  # fmt: skip
    assert results.missing == [('rs', 1), ('rs', 2), ('erm', 1)]


def test_values_are_by_seed_and_leave_out_what_does_not_exist(tmp_path):
    metrics = make_result('erm', 0)['metrics']
    metrics['fused'] |= {'mAP_head': None}
    del metrics['fused']['mAP_tail']
    write_result(tmp_path, 'erm', 0, metrics=metrics)
    write_result(tmp_path, 'erm', 1, ('fused', 'merged'))
    results = read_results(tmp_path, ['erm'], [0, 1])
    assert results.values(Line('erm')) == {
        seed: make_result('erm', seed)['metrics']['fused']['mAP']
        for seed in (0, 1)
    }
    assert results.values(Line('erm'), 'head').keys() == {1}
    assert results.values(Line('erm'), 'tail').keys() == {1}
    assert results.values(Line('erm', 'flip')).keys() == {0}
    assert results.values(Line('erm', 'uniform')) == {}


@pytest.mark.parametrize('keep', [0, 300, '[]', '{}'])
def test_half_a_file_and_a_foreign_one_are_named(tmp_path, keep):
    path = write_result(tmp_path, 'erm', 1)
    text = path.read_text()
    path.write_text(keep if isinstance(keep, str) else text[:keep])
    words = r'erm/seed_1/result\.json: no result .* delete the file'
    with pytest.raises(ValueError, match=words):
        read_results(tmp_path, ['erm'], [0, 1])


@pytest.mark.parametrize(
    'content', [make_result('rs', 0), make_result('erm', 1)]
)
def test_another_file_in_its_place_is_named(tmp_path, content):
    write_result(tmp_path, 'erm', 0).write_text(json.dumps(content))
    words = r'result\.json: not the result of row erm, seed 0; delete'
    with pytest.raises(ValueError, match=words):
        read_results(tmp_path, ['erm'], [0])


@pytest.mark.parametrize('changes', [{'set': 'voc'}, {'classes': CLASSES[1:]}])
def test_rows_are_measured_on_the_same_classes(tmp_path, changes):
    write_result(tmp_path, 'erm', 0)
    write_result(tmp_path, 'rs', 0, **changes)
    with pytest.raises(ValueError, match=r'rs/seed_0.* than row erm, seed 0'):
        read_results(tmp_path, ['erm', 'rs'], [0])


def test_differences_pair_the_seeds_that_both_have():
    found = paired_difference(VALUES, REFERENCE)
    assert found.seeds == 5
    assert found.mean == pytest.approx(statistics.mean(PAIRS))
    # A tie, as in seed 2, puts nobody ahead.
    assert found.ahead == 3
    assert paired_difference(VALUES, {9: 0.0}) is None


def test_interval_is_that_of_a_paired_t_test():
    stats = pytest.importorskip('scipy.stats')
    common = sorted(VALUES.keys() & REFERENCE.keys())
    both = [
        [values[seed] for seed in common] for values in (VALUES, REFERENCE)
    ]
    expected = stats.ttest_rel(*both).confidence_interval(0.95)
    found = paired_difference(VALUES, REFERENCE).interval
    np.testing.assert_allclose(found, expected)


def test_interval_of_three_seeds_is_that_of_the_tables():
    # 4.303 is the 97.5 % quantile with two degrees of freedom.
    found = paired_difference({0: 1.0, 1: 2.0, 2: 6.0}, {0: 0, 1: 0, 2: 0})
    half = 4.303 * (7 / 3) ** 0.5
    assert found.interval == pytest.approx((3 - half, 3 + half), abs=2e-3)
    equal = paired_difference({0: 1.0, 1: 1.0, 2: 1.0}, {0: 0, 1: 0, 2: 0})
    assert equal.interval == (1, 1)
    two = paired_difference({0: 1.0, 1: 2.0}, {0: 0, 1: 0})
    assert (two.mean, two.interval) == (1.5, None)


NAMES = ['groups.png', 'runs.csv', 'table.md']
BRANCHES = ('fused', 'flip', 'uniform', 'rebalanced', 'merged')
LTML = Line('ltml')
LINES = [Line('erm'), Line('rs'), LTML, Line('ltml', 'merged')]


def tables(out, table_lines, seeds):
    results = read_results(out, [line.row for line in table_lines], seeds)
    return render_tables(results, table_lines, LTML, 'Rows')


def lines(text, row):
    """The cells of a line, in each table that has it."""
    label = parse_line(row).label
    cells = [line.strip('|').split('|') for line in text.splitlines()]
    found = [[c.strip() for c in line] for line in cells]
    return [line for line in found if line[0] == label]


def values(row, seeds, key, variant='fused'):
    variants = BRANCHES if row == 'ltml' else ('fused', 'flip')
    return [
        make_result(row, s, variants)['metrics'][variant][key] for s in seeds
    ]


@pytest.fixture
def out(tmp_path):
    """Three rows and seeds of which one run has not finished."""
    for seed in range(3):
        write_result(tmp_path, 'erm', seed)
        write_result(tmp_path, 'ltml', seed, BRANCHES, drift=0.03)
    write_result(tmp_path, 'rs', 0)
    write_result(tmp_path, 'rs', 2)
    (tmp_path / 'rs' / 'seed_1').mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ('row', 'variant', 'seeds'),
    [
        ('erm', 'fused', [0, 1, 2]),
        ('rs', 'fused', [0, 2]),
        ('ltml', 'merged', [0, 1, 2]),
    ],
)
def test_tables_have_means_deviations_and_paired_differences(
    row, variant, seeds, out
):
    text = tables(out, LINES, range(3))
    means, groups = lines(text, f'{row}+{variant}')
    assert means[1] == str(len(seeds))
    differences = [*means[6:], *groups[1:]]
    for place, key in enumerate(KEYS):
        found = values(row, seeds, key, variant)
        mean, std = statistics.mean(found), statistics.stdev(found)
        assert means[2 + place] == f'{mean:.2f} ± {std:.2f}'
        pairs = np.subtract(found, values('ltml', seeds, key))
        expected = f'{statistics.mean(pairs):+.2f}'
        if len(seeds) == 3:  # the interval ends at the extremes
            # Student's 97.5 % quantile with two degrees of freedom.
            half = 4.302653 * np.std(pairs, ddof=1) / 3**0.5
            low, high = np.mean(pairs) - half, np.mean(pairs) + half
            expected += f' [{low:+.2f}, {high:+.2f}]'
        difference, ahead = differences[2 * place : 2 * place + 2]
        assert difference == expected
        assert ahead == f'{sum(pairs > 0)} of {len(seeds)}'
    assert lines(text, 'ltml')[0][6:] == ['reference', '-']


def test_missing_runs_are_named_and_none_is_said_so(out):
    text = tables(out, LINES, range(4))
    assert '4 of 12 runs are missing' in text
    assert 'erm seed 3; rs seed 1; rs seed 3; ltml seed 3.' in text
    text = tables(out, [LINES[0], LTML], range(3))
    assert 'All 6 runs are finished and counted.' in text


def test_the_images_of_every_row_are_told(out):
    same = tables(out, LINES, range(3))
    assert 'on cpu. erm, rs, ltml: 152 steps of 32 images.' in same
    write_result(out, 'rs', 2, steps=99)
    other = tables(out, LINES, range(3))
    assert '152 steps of 32 images; rs: 99 steps of 32 images.' in other


def test_csv_has_every_run_and_prediction_in_full_precision(out):
    runs = read_results(out, ['erm', 'rs', 'ltml'], range(3))
    rows = list(csv.DictReader(render_runs(runs).splitlines()))
    assert list(rows[0]) == [
        'row', 'variant', 'seed', 'total', 'head', 'medium', 'tail',
        'steps', 'images_per_step', 'seconds', 'device', 'drift',
    ]  # fmt: skip
    assert [(r['row'], r['variant'], r['seed']) for r in rows] == [
        *(('erm', v, str(s)) for s in range(3) for v in ('fused', 'flip')),
        *(('rs', v, str(s)) for s in (0, 2) for v in ('fused', 'flip')),
        *(('ltml', v, str(s)) for s in range(3) for v in BRANCHES),
    ]
    last = make_result('ltml', 2, BRANCHES)['metrics']['merged']
    assert [float(rows[-1][g]) for g in list(rows[-1])[3:7]] == [
        last[key] for key in KEYS
    ]


def test_a_set_without_tail_classes_leaves_the_cells_empty(tmp_path):
    metrics = {'fused': {'mAP': 50.0, 'mAP_head': 50.0}}
    for row, seed in [('erm', 0), ('ltml', 0)]:
        write_result(tmp_path, row, seed, metrics=metrics, classes=CLASSES[:1])
    text = tables(tmp_path, [Line('erm'), LTML], [0])
    means, groups = lines(text, 'erm')
    assert means[1:] == ['1', '50.00', '50.00', '-', '-', '+0.00', '0 of 1']
    assert groups[1:] == ['+0.00', '0 of 1', *'----']
    written = render_runs(read_results(tmp_path, ['erm'], [0]))
    assert 'erm,fused,0,50.0,50.0,,,152,32,210.4,cpu,\n' in written


def test_panels_hold_means_deviations_and_every_seed(out):
    rows = ['erm', 'ltml']
    results = read_results(out, rows, range(3))
    figure = draw_groups(results, [Line('erm'), LTML], LTML, 'Rows')
    for axes, key in zip(figure.axes, KEYS, strict=True):
        found = [values(row, range(3), key) for row in rows]
        for row, bar in enumerate(axes.containers):
            mean, std = np.mean(found[row]), np.std(found[row], ddof=1)
            point, _, (whisker,) = bar.lines
            assert point.get_xdata()[0] == pytest.approx(mean)
            (left, y), (right, _) = whisker.get_segments()[0]
            assert y == row
            np.testing.assert_allclose([left, right], [mean - std, mean + std])
        points = [x.get_xdata() for x in axes.lines if len(x.get_xdata()) == 3]
        np.testing.assert_array_equal(points, found)
        reference = [x for x in axes.lines if x.get_ls() == '--']
        assert reference[0].get_xdata()[0] == pytest.approx(np.mean(found[1]))
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == ['ERM (BCE, uniform)', 'LTML (+ compensation)']
    assert figure.axes[0].yaxis_inverted()


def test_the_same_results_give_the_same_bytes(out):
    write_report(out, LINES, range(3), LINES[0])
    first = [(out / name).read_bytes() for name in NAMES]
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == NAMES
    write_report(out, LINES, range(3), LINES[0])
    assert [(out / name).read_bytes() for name in NAMES] == first
    assert b'difference to ERM' in first[-1]
    assert first[0].startswith(b'\x89PNG')


def test_without_a_finished_run_no_picture_of_an_earlier_report_stays(out):
    for path in out.glob('*/*/result.json'):
        path.unlink()
    for name in NAMES:
        (out / name).write_text('earlier')
    write_report(out, LINES, range(3), LINES[0])
    assert '9 of 9 runs are missing' in (out / 'table.md').read_text()
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == NAMES[1:]
    assert (out / 'runs.csv').read_text().count('\n') == 1


def test_a_broken_result_leaves_the_earlier_report_alone(out):
    for name in NAMES:
        (out / name).write_text('earlier')
    (out / 'rs' / 'seed_0' / 'result.json').write_text('{"row": "rs", "se')
    with pytest.raises(ValueError, match='rs/seed_0'):
        write_report(out, LINES, range(3), LINES[0])
    assert {(out / name).read_text() for name in NAMES} == {'earlier'}
