import json
import statistics

import numpy as np
import pytest
from comparison_results import CLASSES, make_result, write_result

from ltml_mm.experiments.results import paired_difference, read_results
from ltml_mm.experiments.rows import Line

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
    path = write_result(tmp_path, 'erm', 0)
    path.write_text(json.dumps(content))
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
