import itertools

import numpy as np
import pytest
from comparison_results import make_result, write_result
from matplotlib import style
from matplotlib.text import Text

from ltml_mm.experiments import comparison_figures
from ltml_mm.experiments.class_axis import spread
from ltml_mm.experiments.drawing import STYLE
from ltml_mm.experiments.results import Spec, read_runs

SEEDS = range(3)


def of(row, key):
    return [make_result(row, s)['metrics']['fused'][key] for s in SEEDS]


def drawn(picture, *args):
    """The figure itself, laid out, instead of its PNG file."""
    with style.context(['default', STYLE]):
        figure = picture.__wrapped__(*args)
        figure.draw_without_rendering()
    return figure


@pytest.fixture
def runs(tmp_path):
    for row, seed in itertools.product(('erm', 'ltml'), SEEDS):
        write_result(tmp_path, row, seed)
    return read_runs(tmp_path, ['erm', 'ltml'], SEEDS)


def test_panels_hold_means_deviations_and_every_seed(runs):
    specs = [Spec('erm'), Spec('ltml')]
    names = {'erm': 'ERM', 'ltml': 'LTML'}
    figure = drawn(
        comparison_figures.groups, runs, specs, specs[1], 'Rows', names
    )
    keys = ['mAP', 'mAP_head', 'mAP_medium', 'mAP_tail']
    for axes, key in zip(figure.axes, keys, strict=True):
        for row, bar in enumerate(axes.containers):
            values = of(specs[row].row, key)
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
    assert labels == ['ERM', 'LTML']
    assert figure.axes[0].yaxis_inverted()


def test_classes_stand_at_their_counts_with_their_mean_ap(runs):
    specs = [Spec('ltml'), Spec('erm')]
    names = {'erm': 'ERM', 'ltml': 'LTML'}
    figure = drawn(comparison_figures.classes, runs, specs, 'Rows', names)
    lines = {x.get_label(): x for x in figure.axes[0].lines}
    for row, name in names.items():
        ap = [
            [c['AP']['fused'] for c in make_result(row, s)['classes']]
            for s in SEEDS
        ]
        line = lines[name]
        np.testing.assert_allclose(line.get_ydata(), np.mean(ap, 0))
        # From 120 to 7; the two classes of 60 moved apart.
        x = line.get_xdata()
        np.testing.assert_allclose(x[[0, 3]], [120, 7])
        assert x[1] > 60 > x[2]
        assert np.sqrt(x[1] * x[2]) == pytest.approx(60)
    title = figure.get_suptitle()
    wins = sum(lines['LTML'].get_ydata() > lines['ERM'].get_ydata())
    assert f'LTML is ahead of ERM in {wins} of 4 classes' in title


def test_a_class_without_ap_is_left_out_of_mean_and_picture(tmp_path):
    for seed in SEEDS:
        classes = make_result('erm', seed)['classes']
        classes[0]['AP']['fused'] = None
        if seed:
            classes[1]['AP']['fused'] = None
        write_result(tmp_path, 'erm', seed, classes=classes)
    runs = read_runs(tmp_path, ['erm'], SEEDS)
    first = make_result('erm', 0)['classes'][1]['AP']['fused']
    found = comparison_figures.class_means(runs, Spec('erm'))
    np.testing.assert_allclose(found[:2], [np.nan, first])
    figure = drawn(
        comparison_figures.classes, runs, [Spec('erm')], 'Rows', {'erm': 'ERM'}
    )
    assert len(figure.axes[0].collections[0].get_segments()) == 3


@pytest.mark.parametrize('size', [1, 12, 80])
def test_class_names_are_whole_and_do_not_overlap(tmp_path, size):
    counts = np.round(np.geomspace(1000, 0.3, size)).astype(int)
    classes = [
        {
            'name': f'a $class$ {k}',
            'count': int(count),
            'group': 'head' if count > 100 else 'tail',
            'AP': {'fused': 50.0},
        }
        for k, count in enumerate(counts)
    ]
    write_result(tmp_path, 'erm', 0, classes=classes)
    runs = read_runs(tmp_path, ['erm'], [0])
    figure = drawn(
        comparison_figures.classes, runs, [Spec('erm')], 'Rows', {'erm': 'ERM'}
    )
    texts = [t for t in figure.axes[0].texts if 'class' in t.get_text()]
    assert len(texts) == size
    empty = [t for t in texts if t.get_text().endswith('(0 images)')]
    assert len(empty) == (counts == 0).sum()
    boxes = [Text.get_window_extent(t) for t in texts]
    for left, right in itertools.pairwise(
        sorted(b.extents[::2].tolist() for b in boxes)
    ):
        assert left[1] <= right[0]
    for box in boxes:
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


@pytest.mark.parametrize('seed', range(5))
def test_points_are_spread_as_little_as_can_be(seed):
    optimize = pytest.importorskip('scipy.optimize')
    places = np.sort(np.random.default_rng(seed).beta(0.5, 0.5, 9))
    found = spread(places, 0.1)
    best = optimize.minimize(
        lambda x: ((x - places) ** 2).sum(),
        np.linspace(0, 1, 9),
        bounds=[(0, 1)] * 9,
        constraints={'type': 'ineq', 'fun': lambda x: np.diff(x) - 0.1},
        options={'ftol': 1e-12},
    )
    np.testing.assert_allclose(found, best.x, atol=1e-4)
    assert (np.diff(found) >= 0.1 - 1e-12).all()
    # Where they do not fit, they fill the line.
    np.testing.assert_allclose(
        spread(places, 0.5), np.linspace(0, 1, 9), atol=1e-12
    )
