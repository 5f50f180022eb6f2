"""The metric, as a stock Evaluator drives it."""

import json
import re

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import METRICS
from mmpretrain.structures import DataSample
from sklearn.metrics import average_precision_score

from ltml_mm.evaluation import class_table

COUNTS = [300, 100, 99, 20, 19, 4]
NAMES = ['person', 'chair', 'cat', 'cow', 'boat', 'train']
GROUPS = {'head': [0, 1], 'medium': [2, 3], 'tail': [4, 5]}
SIZE = 60


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    targets = rng.random((SIZE, 6)) < 0.3
    targets[0] = False  # an image without a label
    scores = np.round(rng.random((3, SIZE, 6)) + targets, 1)
    return torch.tensor(scores, dtype=torch.float32), targets


def make_samples(data, soft=False, branches=False):
    scores, targets = data
    samples = []
    for i in range(SIZE):
        sample = DataSample(metainfo={'img_path': f'{i}.jpg'})
        sample.set_pred_score(scores[0, i])
        if soft:
            sample.set_gt_score(torch.tensor(targets[i]) * 0.2 + 0.4)
        else:
            sample.set_gt_label(np.flatnonzero(targets[i]))
        if branches:
            sample.set_field(
                {'uniform': scores[1, i], 'rebalanced': scores[2, i]},
                'branch_scores',
            )
        samples.append(sample)
    return samples


def evaluate(samples, meta=None, size=None, **options):
    metric = METRICS.build(dict(type='GroupedAveragePrecision', **options))
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = meta or {'classes': NAMES, 'class_counts': COUNTS}
    for start in range(0, len(samples), 7):
        evaluator.process(samples[start : start + 7])
    return evaluator.evaluate(size or len(samples)), metric


def reference(scores, targets):
    ap = [
        100 * average_precision_score(targets[:, k], scores[:, k])
        for k in range(6)
    ]
    means = {
        f'mAP_{g}': np.mean([ap[k] for k in i]) for g, i in GROUPS.items()
    }
    return {'mAP': np.mean(ap), **means}, ap


@pytest.mark.parametrize('soft', [False, True])
def test_equals_scikit_learn_by_group(data, soft):
    got, _ = evaluate(make_samples(data, soft))
    expected, _ = reference(data[0][0].numpy(), data[1])
    expected = {f'multi-label/{k}': v for k, v in expected.items()}
    assert got == pytest.approx(expected, abs=1e-4)
    assert all(type(value) is float for value in got.values())


def test_branches_and_classes_in_one_evaluation(data):
    samples = make_samples(data, branches=True)
    got, metric = evaluate(samples, classwise=True)
    expected = {}
    for index, branch in enumerate(['', 'uniform/', 'rebalanced/']):
        means, ap = reference(data[0][index].numpy(), data[1])
        expected |= {f'multi-label/{branch}{k}': v for k, v in means.items()}
        if not branch:
            expected |= {
                f'multi-label/AP/{n}': a
                for n, a in zip(NAMES, ap, strict=True)
            }
        key = f'{branch}AP'
        rows = metric.report['classes']
        assert [row[key] for row in rows] == pytest.approx(ap, abs=1e-4)
    assert got == pytest.approx(expected, abs=1e-4)


def test_branches_stay_out_where_told(data):
    got, _ = evaluate(make_samples(data, branches=True), branches=False)
    assert len(got) == 4


def test_options_move_the_groups(data):
    got, metric = evaluate(make_samples(data), head=301, tail=301)
    assert set(got) == {'multi-label/mAP', 'multi-label/mAP_tail'}
    assert got['multi-label/mAP'] == got['multi-label/mAP_tail']
    assert {row['group'] for row in metric.report['classes']} == {'tail'}


def test_class_without_a_positive_is_left_out_and_named_once(
    data, monkeypatch
):
    warnings = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'warning', warnings.append)
    scores, targets = data
    targets[:, [3, 4, 5]] = False
    samples = make_samples(data)
    got, metric = evaluate(samples, classwise=True)
    expected = [
        100 * average_precision_score(targets[:, k], scores[0, :, k])
        for k in range(3)
    ]
    assert got['multi-label/mAP'] == pytest.approx(np.mean(expected))
    assert got['multi-label/mAP_medium'] == pytest.approx(expected[2])
    assert 'multi-label/mAP_tail' not in got
    assert 'multi-label/AP/boat' not in got
    assert metric.report['classes'][4]['AP'] is None
    metric.process(None, [s.to_dict() for s in samples])
    metric.evaluate(SIZE)
    assert len(warnings) == 1
    assert re.search(r'cow, boat, train\.$', warnings[0])


def test_of_many_classes_without_a_positive_ten_are_named(monkeypatch):
    warnings = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'warning', warnings.append)
    metric = METRICS.build({'type': 'GroupedAveragePrecision'})
    metric._name_absent([f'c{n}' for n in range(13)], np.eye(1, 13)[0])
    assert warnings[0].endswith(
        'c1, c2, c3, c4, c5, c6, c7, c8, c9, c10 and 2 more.'
    )


def test_results_hold_no_more_than_their_image():
    batch = torch.zeros(1000, 6)
    sample = DataSample().set_pred_score(batch[0]).set_gt_label([1])
    metric = METRICS.build({'type': 'GroupedAveragePrecision'})
    metric.process(None, [sample.to_dict()])
    batch += 1  # a view would follow
    ((scores, targets),) = metric.results
    assert scores[''].base is None
    assert not scores[''].any()
    assert scores[''].nbytes + targets.nbytes == 6 * 5


def broken(change):
    sample = DataSample(metainfo={'img_path': 'a.jpg'})
    sample.set_pred_score(torch.rand(6)).set_gt_label([1])
    change(sample)
    return [sample]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.set_gt_label([6]), 'a.jpg: label 6 is not one of the 6'),
        (lambda s: s.set_gt_label([-1]), 'a.jpg: label -1'),
        (lambda s: s.set_gt_label([]), 'no image of the test set has a label'),
        (lambda s: s.pop('gt_label'), 'a.jpg: neither "gt_score" nor'),
        (
            lambda s: s.set_pred_score(torch.tensor([0, np.nan, 0, 0, 0, 0])),
            'a.jpg: the score of class 1 is NaN',
        ),
        (
            lambda s: s.set_field(torch.rand(5), 'pred_score'),
            '5 scores an image, the dataset has 6 classes',
        ),
        (
            lambda s: s.set_field(torch.rand(4), 'gt_score'),
            r'a.jpg: "gt_score" has the shape \(4,\)',
        ),
    ],
)
def test_bad_samples_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        evaluate(broken(change))


def test_missing_counts_are_refused(data):
    with pytest.raises(ValueError, match='no "class_counts" in its metainfo'):
        evaluate(make_samples(data), meta={'classes': NAMES})


def test_table_shows_the_report(data):
    names = ['[bold]person', '東京ｱ', *NAMES[2:]]
    meta = {'classes': names, 'class_counts': COUNTS, 'num_train_images': 400}
    got, metric = evaluate(make_samples(data, branches=True), meta)
    report = json.loads(json.dumps(metric.report, allow_nan=False))
    assert report['num_train_images'] == 400
    table = class_table(report).splitlines()
    # East Asian characters are two columns wide, but for halfwidth ones.
    assert {len(line) + 2 * ('東京' in line) for line in table} == {
        len(table[0])
    }
    lines = [
        [cell.strip() for cell in line.strip('| ').split('|')]
        for line in table
    ]
    assert lines[0][-3:] == ['AP', 'AP uniform', 'AP rebalanced']
    assert [row[0] for row in lines[2:]] == [
        'total (6 classes)',
        'head (2 classes)',
        'medium (2 classes)',
        'tail (2 classes)',
        *names,
    ]
    assert lines[2][-3] == f'{got["multi-label/mAP"]:.2f}'
    assert lines[5][-1] == f'{got["multi-label/rebalanced/mAP_tail"]:.2f}'
    counts = data[1].sum(0)
    assert [row[2:4] for row in lines[6:]] == [
        [str(n), str(m)] for n, m in zip(COUNTS, counts, strict=True)
    ]
