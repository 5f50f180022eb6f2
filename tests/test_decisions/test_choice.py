"""Thresholds against brute force, figures against scikit-learn."""

import numpy as np
import pytest
from long_tail_scores import GROUPS, draw, make_world
from scipy.stats import binomtest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from ltml_mm.decisions import choice
from ltml_mm.decisions.selection import choose_thresholds
from ltml_mm.decisions.thresholds import logit, read_thresholds, sigmoid
from ltml_mm.decisions.thresholds import write_thresholds as write

F1 = choice.parse_metric('f1')


@pytest.fixture(scope='module')
def images():
    rng = np.random.default_rng(0)
    return draw(rng, 300, make_world(rng))


def reached(metric, truth, said):
    """What a cut reaches, from the definitions; larger is better."""
    hits = np.sum(truth & said)
    precision = hits / max(np.sum(said), 1)
    recall = hits / max(np.sum(truth), 1)
    if metric in ('f1', 'f2'):
        square = 4 if metric == 'f2' else 1
        below = square * precision + recall
        return (1 + square) * precision * recall / below if below else 0
    if metric == 'precision=0.7':
        return recall if precision >= 0.7 else precision - 2
    if metric == 'recall=0.8':
        return precision if recall >= 0.8 else recall - 2
    return -np.sum(said & ~truth) - 4.5 * np.sum(truth & ~said)


@pytest.mark.parametrize(
    'name', ['f1', 'f2', 'precision=0.7', 'recall=0.8', 'cost=1:4.5']
)
def test_own_thresholds_are_the_best(images, name):
    scores, targets = (x[:80].copy() for x in images)
    scores = scores.round(2)  # ties
    _, own = choice.choose(
        scores, targets, GROUPS, choice.parse_metric(name), 0
    )
    for k in np.flatnonzero(targets.any(0)):
        column, truth = scores[:, k], targets[:, k]
        cuts = [*np.unique(column), 1.1]
        best = max(reached(name, truth, column >= cut) for cut in cuts)
        found = reached(name, truth, column >= own[k])
        assert found == pytest.approx(best, abs=1e-12), k
    assert np.isnan(own[~targets.any(0)]).all()


def test_rare_classes_go_towards_their_group(images):
    scores, targets = (x.copy() for x in images)
    targets[:, 12] = False
    _, own = choice.choose(scores, targets, GROUPS, F1)
    mixed, _ = choice.choose(scores, targets, GROUPS, F1)
    shared, _ = choice.choose(scores, targets, GROUPS, F1, 1e12)
    for group in ('head', 'medium', 'tail'):
        members = [k for k, name in enumerate(GROUPS) if name == group]
        assert np.ptp(shared[members]) < 1e-6
        # No common cut of the group has a larger mean F1.
        best = max(
            np.mean(
                [
                    reached('f1', targets[:, k], scores[:, k] >= cut)
                    for k in members
                    if targets[:, k].any()
                ]
            )
            for cut in sigmoid(np.linspace(-6, 4, 120))
        )
        found = [
            reached('f1', targets[:, k], scores[:, k] >= shared[k])
            for k in members
            if targets[:, k].any()
        ]
        assert np.mean(found) >= best - 0.01
    assert mixed[12] == pytest.approx(shared[12])
    counts = targets.sum(0)
    for k in np.flatnonzero(counts):
        expected = counts[k] * logit(own[k]) + 8 * logit(shared[k])
        assert logit(mixed[k]) == pytest.approx(expected / (counts[k] + 8))


def test_a_group_without_a_positive_takes_that_of_all(images):
    scores, targets = (x.copy() for x in images)
    targets[:, 20:] = False
    found, _ = choice.choose(scores, targets, GROUPS, F1)
    assert np.ptp(found[20:]) < 1e-12
    everyone, _ = choice.choose(scores, targets, ['one'] * 30, F1, 1e12)
    assert found[25] == pytest.approx(everyone[0], abs=1e-6)
    no_groups, _ = choice.choose(scores, targets, [None] * 30, F1, 1e12)
    np.testing.assert_allclose(no_groups, everyone)


def test_shrunk_ones_beat_unshrunk_and_common_ones():
    """On 4000 images that chose nothing, in the mean over ten worlds."""
    gains = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        world = make_world(rng)
        seen, unseen = draw(rng, 400, world), draw(rng, 4000, world)
        mixed, own = choice.choose(*seen, GROUPS, F1)
        # Without a positive there is no own one; 0.5 is what is left.
        own = np.where(np.isnan(own), 0.5, own)
        macro = [
            f1_score(
                unseen[1], unseen[0] >= cut, average='macro', zero_division=0
            )
            for cut in (mixed, own, 0.5)
        ]
        gains.append([macro[0] - macro[1], macro[0] - macro[2]])
    gains = np.array(gains)
    error = gains.std(0, ddof=1) / len(gains) ** 0.5
    assert (gains.mean(0) > 2 * error).all(), (gains.mean(0), error)
    assert gains.mean(0)[1] > 0.1


def test_figures_are_scikit_learns(images):
    scores, targets = (x[:150] for x in images)
    decided = scores >= 0.4
    decided[:, 3] = False
    rows = choice.class_figures(decided, targets)
    expected = precision_recall_fscore_support(
        targets, decided, average=None, zero_division=0
    )
    for k, row in enumerate(rows):
        assert row['positives'] == targets[:, k].sum()
        for name, values in zip(
            ('precision', 'recall', 'f1'), expected, strict=False
        ):
            if row[name] is not None:
                assert row[name][0] == pytest.approx(values[k]), (k, name)
        hits = int((decided & targets)[:, k].sum())
        for name, trials in (
            ('precision', int(decided[:, k].sum())),
            ('recall', int(targets[:, k].sum())),
        ):
            if not trials:
                assert row[name] is None
                continue
            low, high = binomtest(hits, trials).proportion_ci(method='wilson')
            assert row[name][1:] == pytest.approx([low, high], abs=1e-9)
    assert rows[3]['precision'] is None
    summary = choice.summary_figures(decided, targets, GROUPS)
    known = targets.any(0)
    for name in ('micro', 'macro', 'head', 'medium', 'tail'):
        inside = known & np.array(
            [name in ('micro', 'macro', group) for group in GROUPS]
        )
        expected = precision_recall_fscore_support(
            targets[:, inside],
            decided[:, inside],
            average='micro' if name == 'micro' else 'macro',
            zero_division=0,
        )
        if name == 'micro':  # false positives of absent classes count
            expected = precision_recall_fscore_support(
                targets, decided, average='micro'
            )
        for key, value in zip(
            ('precision', 'recall', 'f1'), expected, strict=False
        ):
            found, low, high = summary[name][key]
            assert found == pytest.approx(value, abs=1e-6), (name, key)
            assert low < found < high


def test_intervals_of_the_summary_cover():
    """The bootstrap's 95 % hold what 20,000 images say, most of the time."""
    rng = np.random.default_rng(1)
    world = make_world(rng)
    scores, targets = draw(rng, 20_000, world)
    micro = f1_score(targets, scores >= 0.4, average='micro')
    covered = 0
    for _ in range(20):
        scores, targets = draw(rng, 200, world)
        truth = choice.summary_figures(scores >= 0.4, targets, GROUPS)
        covered += truth['micro']['f1'][1] <= micro <= truth['micro']['f1'][2]
    assert covered >= 16


def test_folds_are_parts_and_decide_what_they_did_not_see(images):
    scores, targets = images
    folds = choice.stratified_folds(targets, 5)
    np.testing.assert_array_equal(
        np.sort(np.concatenate(folds)), np.arange(300)
    )
    counts = np.array([targets[part].sum(0) for part in folds])
    assert (np.ptp(counts, 0)[targets.sum(0) >= 20] <= 4).all()
    decided = choice.held_out_decisions(scores, targets, GROUPS, F1)
    part = folds[2]
    rest = np.setdiff1d(np.arange(300), part)
    cut, _ = choice.choose(scores[rest], targets[rest], GROUPS, F1)
    np.testing.assert_array_equal(decided[part], scores[part] >= cut)


def test_the_whole_choice_can_be_written(images, tmp_path):
    info = [
        dict(name=f'c{k}', group=group, train_images=None)
        for k, group in enumerate(GROUPS)
    ]
    model = dict(name='a.pth', sha256='0' * 64)
    found = choose_thresholds(*images, info, model, dict(kind='x'))
    write(tmp_path / 't.json', found)
    assert read_thresholds(tmp_path / 't.json') == found
    assert found.chosen_on['images'] == 300
    with pytest.raises(ValueError, match='no image has a label'):
        choose_thresholds(
            images[0], images[1] & False, info, model, dict(kind='x')
        )


BAD = '|f|f0|f1.|f-1|f1 |accuracy|precision|precision=0|precision=nan'
BAD += '|recall=1.1|cost=1|cost=0:1|cost=1:0|cost=1:2:3'


@pytest.mark.parametrize('text', BAD.split('|'))
def test_bad_metrics_are_refused(text):
    with pytest.raises(ValueError, match='the metric must be'):
        choice.parse_metric(text)


def test_metrics():
    assert choice.parse_metric('f0.5').values == (0.5,)
    assert choice.parse_metric('cost=1:20').values == (1, 20)
    assert choice.parse_metric('precision=.9').values == (0.9,)
