import csv
import re
import statistics

import pytest
from comparison_results import make_result, write_result

from ltml_mm.experiments.comparison_report import (
    render_runs,
    render_tables,
    write_report,
)
from ltml_mm.experiments.results import read_results
from ltml_mm.experiments.rows import Line, parse_line

NAMES = ['groups.png', 'runs.csv', 'table.md']
KEYS = ['mAP', 'mAP_head', 'mAP_medium', 'mAP_tail']
BRANCHES = ('fused', 'flip', 'uniform', 'rebalanced', 'merged')
LTML, MERGED = Line('ltml'), Line('ltml', 'merged')
LINES = [Line('erm'), Line('rs'), LTML, MERGED]


def tables(out, table_lines, seeds):
    results = read_results(out, [line.row for line in table_lines], seeds)
    return render_tables(results, table_lines, LTML, 'Rows')


def lines(text, row):
    """The cells of a line, in each table that has it."""
    label = parse_line(row).label
    cells = [line.strip('|').split('|') for line in text.splitlines()]
    found = [[c.strip() for c in line] for line in cells]
    return [line for line in found if line[0] == label]


def values(row, seeds, key='mAP', variant='fused'):
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


def test_table_has_means_deviations_and_paired_differences(out):
    text = tables(out, LINES, range(3))
    for row, seeds in [('erm', [0, 1, 2]), ('rs', [0, 2])]:
        means, _ = lines(text, row)
        assert means[1] == str(len(seeds))
        for cell, key in zip(means[2:6], KEYS, strict=True):
            found = values(row, seeds, key)
            mean, std = statistics.mean(found), statistics.stdev(found)
            assert cell == f'{mean:.2f} ± {std:.2f}'
        pairs = [
            a - b
            for a, b in zip(
                values(row, seeds), values('ltml', seeds), strict=True
            )
        ]
        assert means[6].split(' [')[0] == f'{statistics.mean(pairs):+.2f}'
        assert means[7] == f'{sum(p > 0 for p in pairs)} of {len(pairs)}'


def test_differences_within_groups_are_those_of_the_group(out):
    _, groups = lines(tables(out, LINES, range(3)), 'erm')
    for place, key in enumerate(KEYS[1:]):
        pairs = [
            a - b
            for a, b in zip(
                values('erm', range(3), key),
                values('ltml', range(3), key),
                strict=True,
            )
        ]
        difference, ahead = groups[1 + 2 * place : 3 + 2 * place]
        # Three seeds: the interval ends at the extremes.
        assert difference == (
            f'{statistics.mean(pairs):+.2f} '
            f'[{min(pairs):+.2f}, {max(pairs):+.2f}]'
        )
        assert ahead == f'{sum(p > 0 for p in pairs)} of 3'


def test_a_variant_has_figures_of_its_own(out):
    text = tables(out, LINES, range(3))
    assert '| LTML, merged ' in text
    found = values('ltml', range(3), variant='merged')
    mean, std = statistics.mean(found), statistics.stdev(found)
    assert f'{mean:.2f} ± {std:.2f}' in text
    assert lines(text, 'ltml')[0][6:] == ['reference', '-']


def test_missing_runs_are_named_and_none_is_said_so(out):
    text = tables(out, LINES, range(4))
    assert '4 of 12 runs are missing' in text
    assert 'erm seed 3; rs seed 1, 3; ltml seed 3.' in text
    text = tables(out, [LINES[0], LTML], range(3))
    assert 'All 6 runs are finished and counted.' in text


def test_other_numbers_of_images_are_pointed_at(out):
    same = tables(out, LINES, range(3))
    assert 'Every run made 152 steps of 32 images, on cpu.' in same
    write_result(out, 'rs', 2, steps=99)
    other = tables(out, LINES, range(3))
    assert re.search('not all see as many .* rs: 99 steps of 32 images', other)


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
    classes = make_result('erm', 0)['classes'][:1]
    for row, seed in [('erm', 0), ('ltml', 0)]:
        write_result(tmp_path, row, seed, metrics=metrics, classes=classes)
    text = tables(tmp_path, [Line('erm'), LTML], [0])
    means, groups = lines(text, 'erm')
    assert means[1:] == ['1', '50.00', '50.00', '-', '-', '+0.00', '0 of 1']
    assert groups[1:] == ['+0.00', '0 of 1', *'----']
    written = render_runs(read_results(tmp_path, ['erm'], [0]))
    assert 'erm,fused,0,50.0,50.0,,,152,32,210.4,cpu,\n' in written


def test_the_drift_is_that_of_the_rows_with_branches(out):
    write_result(out, 'ltml', 2, BRANCHES, drift=0.06)
    text = tables(out, LINES, range(3))
    assert 'mean over the seeds: ltml 0.040.' in text
    assert 'Drift' not in tables(out, [LTML, Line('erm')], [7])


def test_the_same_results_give_the_same_bytes(out):
    text = write_report(out, LINES, range(3), LINES[0])
    first = [(out / name).read_bytes() for name in NAMES]
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == NAMES
    write_report(out, LINES, range(3), LINES[0])
    assert [(out / name).read_bytes() for name in NAMES] == first
    assert first[-1].decode() == text
    assert 'difference to ERM' in text
    assert first[0].startswith(b'\x89PNG')


def test_without_a_finished_run_no_picture_of_an_earlier_report_stays(out):
    for path in out.glob('*/*/result.json'):
        path.unlink()
    for name in NAMES:
        (out / name).write_text('earlier')
    text = write_report(out, LINES, range(3), LINES[0])
    assert '9 of 9 runs are missing' in text
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == NAMES[1:]
    assert (out / 'runs.csv').read_text().count('\n') == 1


def test_a_broken_result_leaves_the_earlier_report_alone(out):
    for name in NAMES:
        (out / name).write_text('earlier')
    (out / 'rs' / 'seed_0' / 'result.json').write_text('{"row": "rs", "se')
    with pytest.raises(ValueError, match='rs/seed_0'):
        write_report(out, LINES, range(3), LINES[0])
    assert {(out / name).read_text() for name in NAMES} == {'earlier'}
