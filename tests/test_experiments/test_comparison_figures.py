import itertools

import numpy as np
import pytest
from comparison_results import make_result, write_result

from ltml_mm.experiments.comparison_figures import draw_groups
from ltml_mm.experiments.results import read_results
from ltml_mm.experiments.rows import Line

SEEDS = range(3)


def of(row, key):
    return [make_result(row, s)['metrics']['fused'][key] for s in SEEDS]


@pytest.fixture
def results(tmp_path):
    for row, seed in itertools.product(('erm', 'ltml'), SEEDS):
        write_result(tmp_path, row, seed)
    return read_results(tmp_path, ['erm', 'ltml'], SEEDS)


def test_panels_hold_means_deviations_and_every_seed(results):
    lines = [Line('erm'), Line('ltml')]
    figure = draw_groups(results, lines, lines[1], 'Rows')
    keys = ['mAP', 'mAP_head', 'mAP_medium', 'mAP_tail']
    for axes, key in zip(figure.axes, keys, strict=True):
        for row, bar in enumerate(axes.containers):
            values = of(lines[row].row, key)
            point, _, (whisker,) = bar.lines
            mean, std = np.mean(values), np.std(values, ddof=1)
            assert point.get_xdata()[0] == pytest.approx(mean)
            (left, y), (right, _) = whisker.get_segments()[0]
            assert y == row
            np.testing.assert_allclose([left, right], [mean - std, mean + std])
        points = [x.get_xdata() for x in axes.lines if len(x.get_xdata()) == 3]
        np.testing.assert_array_equal(
            points, [of('erm', key), of('ltml', key)]
        )
        reference = [x for x in axes.lines if x.get_ls() == '--']
        assert reference[0].get_xdata()[0] == pytest.approx(
            np.mean(of('ltml', key))
        )
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == ['ERM (BCE, uniform)', 'LTML (+ compensation)']
    assert figure.axes[0].yaxis_inverted()
