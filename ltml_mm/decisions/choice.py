"""Chooses one threshold a class, and measures what it brings.

Throughout, ``scores`` (N, K) are floats from 0 to 1, ``targets`` and
``decided`` (N, K) are bool, and ``groups`` names the group of each class.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ltml_cli.result_parsers import parse_metric_words
from ltml_cli.run_parsers import DEFAULT_THRESHOLD
from ltml_mm.class_statistics import GROUPS
from ltml_mm.datasets.splits import stratified_holdout
from ltml_mm.decisions.thresholds import Thresholds, logit, sigmoid
from ltml_mm.evaluation.report import table

#: A class with so many positives stands half-way between its own threshold
#: and its group's.
PRIOR_POSITIVES = 8.0
#: Parts of the images in cross-validation, and resamplings of a bootstrap.
FOLDS, RESAMPLINGS = 5, 500
#: The quantile of the normal distribution of a 95 % interval.
NORMAL = 1.959963984540054
#: What is told of decisions, in this order.
FIGURES = ('precision', 'recall', 'f1')


@dataclass(frozen=True)
class Metric:
    """What a threshold is to reach.

    Attributes:
        text: As it was asked for.
        kind: ``'f'``, ``'precision'``, ``'recall'`` or ``'cost'``.
        values: Beta; the least precision or recall; or the costs of a false
            positive and of a miss.
    """

    text: str
    kind: str
    values: tuple[float, ...]

    def utility(self, tp: Any, fp: Any, positives: Any) -> np.ndarray:
        """Returns what is to be maximised, of broadcast counts.

        Of two cuts that reach a precision, the one of more recall is better,
        and the other way round; where none reaches it, the nearest is best.
        """
        precision = tp / np.maximum(tp + fp, 1e-12)
        recall = tp / np.maximum(positives, 1e-12)
        if self.kind == 'f':
            square = self.values[0] ** 2
            weight = (1 + square) * tp
            misses = positives - tp
            return weight / np.maximum(weight + square * misses + fp, 1e-12)
        if self.kind == 'cost':
            return -self.values[0] * fp - self.values[1] * (positives - tp)
        aim, other = precision, recall
        if self.kind == 'recall':
            aim, other = recall, precision
        return np.where(aim >= self.values[0], other, aim - 2)


def parse_metric(text: str) -> Metric:
    """Reads ``f1``, ``f2``, ``precision=P``, ``recall=R``, ``cost=FP:FN``.

    Raises:
        ValueError: It is none of these, or out of range.
    """
    return Metric(text, *parse_metric_words(text))


def choose(
    scores: np.ndarray,
    targets: np.ndarray,
    groups: Sequence[str | None],
    metric: Metric,
    prior: float = PRIOR_POSITIVES,
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses one threshold a class.

    The own threshold t_k of a class with n_k positives is shrunk towards
    that of its group, between their logits:
    ``(n_k t_k + prior t_group) / (n_k + prior)``. A class without a positive
    has its group's, a group without one that of all classes.

    Returns:
        tuple: The thresholds, and the own ones, NaN without a positive;
        float64 (K,), from 0 to 1.
    """
    logits, targets = logit(scores), np.asarray(targets, bool)
    positives = targets.sum(0)
    known = positives > 0
    own = np.full(len(positives), np.nan)
    for k in np.flatnonzero(known):
        own[k] = _own_cut(logits[:, k], targets[:, k], metric)
    shared = np.zeros(len(positives))
    for name in dict.fromkeys(groups):
        inside = np.array([group == name for group in groups])
        members = np.flatnonzero(inside & known)
        if not members.size:
            members = np.flatnonzero(known)
        if members.size:
            shared[inside] = _shared_cut(logits, targets, members, metric)
    weight = positives / np.maximum(positives + prior, 1e-12)
    mixed = weight * np.nan_to_num(own) + (1 - weight) * shared
    return sigmoid(mixed), sigmoid(own)


def _own_cut(logits: np.ndarray, targets: np.ndarray, metric: Metric) -> float:
    """Finds the best cut of one class, half-way between two scores."""
    order = np.argsort(-logits, kind='stable')
    ranked, hits = logits[order], targets[order]
    # Cuts lie between distinct scores, above the first and below the last.
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    tp = np.concatenate([[0], np.cumsum(hits)[last]])
    fp = np.concatenate([[0], np.cumsum(~hits)[last]])
    best = int(metric.utility(tp, fp, tp[-1]).argmax())
    values = np.concatenate([ranked[:1] + 1, ranked[last], ranked[-1:] - 1])
    return float(values[best : best + 2].mean())


def _shared_cut(
    logits: np.ndarray,
    targets: np.ndarray,
    members: np.ndarray,
    metric: Metric,
) -> float:
    """Finds the best common cut of several classes."""
    hits = logits[:, members][targets[:, members]]
    cuts = np.unique(np.quantile(hits, np.linspace(0, 1, 400)))
    tp, fp = np.empty((2, len(members), len(cuts)))
    for row, k in enumerate(members):
        of_class = targets[:, k]
        for counts, part in ((tp, of_class), (fp, ~of_class)):
            ranked = np.sort(logits[part, k])
            counts[row] = len(ranked) - ranked.searchsorted(cuts)
    positives = targets[:, members].sum(0)[:, None]
    if metric.kind != 'f':  # a least precision holds of all together
        tp, fp, positives = (x.sum(0)[None] for x in (tp, fp, positives))
    best = int(metric.utility(tp, fp, positives).mean(0).argmax())
    return float(cuts[max(best - 1, 0) : best + 1].mean())


def stratified_folds(targets: np.ndarray, count: int) -> list[np.ndarray]:
    """Deals images into parts of like size and like classes.

    Returns:
        list[np.ndarray]: The indices of each part, ascending.
    """
    rest, folds = np.arange(len(targets)), []
    for left in range(count, 1, -1):
        part = stratified_holdout(targets[rest], 1 / left, 0)
        folds.append(rest[part])
        rest = np.delete(rest, part)
    return [*folds, rest]


def held_out_decisions(
    scores: np.ndarray,
    targets: np.ndarray,
    groups: Sequence[str | None],
    metric: Metric,
    prior: float = PRIOR_POSITIVES,
) -> np.ndarray:
    """Decides every image by thresholds that others chose, bool (N, K)."""
    decided = np.zeros(targets.shape, bool)
    folds = stratified_folds(targets, min(FOLDS, len(targets)))
    for part in folds:
        rest = np.setdiff1d(np.arange(len(targets)), part)
        if rest.size:
            cut, _ = choose(scores[rest], targets[rest], groups, metric, prior)
            decided[part] = scores[part] >= cut
    return decided


def wilson(hits: int, trials: int) -> list[float] | None:
    """Returns a share and Wilson's 95 % interval, None without a trial."""
    if not trials:
        return None
    share, square = hits / trials, NORMAL**2 / trials
    middle = share + square / 2
    spread = NORMAL * np.sqrt(
        share * (1 - share) / trials + square / (4 * trials)
    )
    low, high = np.array([middle - spread, middle + spread]) / (1 + square)
    return [share, max(float(low), 0.0), min(float(high), 1.0)]


def class_figures(
    decided: np.ndarray, targets: np.ndarray
) -> list[dict[str, Any]]:
    """Measures the decisions of every class.

    Returns:
        list[dict]: ``positives``, and ``precision``, ``recall`` and ``f1``,
        each ``[value, low, high]`` with a Wilson interval, or None where
        nothing was predicted, or is there. F1 = 2J / (1 + J), where J is the
        share of hits among what is predicted or true.
    """
    rows = []
    arrays = decided & targets, decided, targets
    counts = (array.sum(0).tolist() for array in arrays)
    for hit, said, true in zip(*counts, strict=True):
        overlap = wilson(hit, said + true - hit) if true else None
        rows.append(
            {
                'positives': true,
                'precision': wilson(hit, said),
                'recall': wilson(hit, true),
                'f1': overlap and [2 * j / (1 + j) for j in overlap],
            }
        )
    return rows


def summary_figures(
    decided: np.ndarray, targets: np.ndarray, groups: Sequence[str | None]
) -> dict[str, dict[str, Any]]:
    """Measures decisions over all classes and by group.

    Returns:
        dict: ``micro``, ``macro`` and each group with a positive, to
        ``precision``, ``recall`` and ``f1``: ``[value, low, high]`` with a
        95 % interval of :data:`RESAMPLINGS` bootstraps over images. Means
        are over the classes with a positive; what is never predicted has the
        precision 0.
    """
    arrays = [x.astype(np.float32) for x in (decided & targets, decided)]
    arrays.append(targets.astype(np.float32))
    members = {
        name: np.array([name in ('macro', group) for group in groups])
        for name in ('macro', *GROUPS)
    }
    rng = np.random.default_rng(0)
    count = len(targets)
    drawn = defaultdict(list)
    for number in range(RESAMPLINGS + 1):
        times: Any = np.ones(count)  # first come the images themselves
        if number:
            times = rng.multinomial(count, np.full(count, 1 / count))
        tp, said, true = (times.astype(np.float32) @ x for x in arrays)
        drawn['micro'].append(_ratios(tp.sum(), said.sum(), true.sum()))
        figures = _ratios(tp, said, true)
        for name, inside in members.items():
            present = inside & (true > 0)
            if present.any():
                drawn[name].append(figures[:, present].mean(1))
    return {name: _intervals(np.array(rows)) for name, rows in drawn.items()}


def _ratios(tp: Any, said: Any, true: Any) -> np.ndarray:
    """Returns precision, recall and F1, float64 (3, ...)."""
    parts = (tp, said), (tp, true), (2 * tp, said + true)
    return np.array([up / np.maximum(down, 1e-9) for up, down in parts], float)


def _intervals(rows: np.ndarray) -> dict[str, list[float]]:
    low, high = np.percentile(rows[1:], [2.5, 97.5], axis=0)
    figures = np.stack([rows[0], low, high], 1).tolist()
    return dict(zip(FIGURES, figures, strict=True))


def measure(
    thresholds: Thresholds, decided: np.ndarray, targets: np.ndarray
) -> Thresholds:
    """Adds what decisions, by other images' thresholds, reach."""
    figures = class_figures(decided, targets)
    rows = [
        {**row, **new}
        for row, new in zip(thresholds.classes, figures, strict=True)
    ]
    summary = summary_figures(decided, targets, thresholds.groups)
    return replace(thresholds, classes=rows, summary=summary)


def gain_text(
    thresholds: Thresholds, scores: np.ndarray, targets: np.ndarray
) -> str:
    """Says what thresholds change beside the common one, in two lines."""
    common = scores >= DEFAULT_THRESHOLD
    before = summary_figures(common, targets, thresholds.groups)
    decided = thresholds.decide(scores)
    return (
        f'At {DEFAULT_THRESHOLD}: {_decided_text(common, before)}\n'
        f'At these thresholds: {_decided_text(decided, thresholds.summary)}'
    )


def _decided_text(decided: np.ndarray, summary: Mapping[str, Any]) -> str:
    never = np.count_nonzero(~decided.any(0))
    bare = np.count_nonzero(~decided.any(1))
    return (
        f'macro F1 {_percent(summary["macro"]["f1"])}, {never} of '
        f'{decided.shape[1]} classes never named, {bare} of {len(decided)} '
        'images without a label'
    )


def add_decisions(report: dict[str, Any], thresholds: Thresholds) -> None:
    """Adds thresholds and F1 in percent to a class report, in place."""
    for row, chosen in zip(report['classes'], thresholds.classes, strict=True):
        row['threshold'] = chosen['threshold']
        row['F1'] = None if chosen['f1'] is None else 100 * chosen['f1'][0]
    report['summary'].update(mean_f1(thresholds.summary))


def mean_f1(summary: Mapping[str, Any]) -> dict[str, float]:
    """Returns the macro F1 in percent, ``F1``, ``F1_head`` and so on."""
    return {
        'F1' if name == 'macro' else f'F1_{name}': 100 * figures['f1'][0]
        for name, figures in summary.items()
        if name != 'micro'
    }


def threshold_table(chosen: Thresholds) -> str:
    """Renders thresholds and figures in percent, with 95 % intervals."""
    rows: list[list[Any]] = [
        [name, '', '', '', '', *(_percent(row[key]) for key in FIGURES)]
        for name, row in chosen.summary.items()
    ]
    facts = ('name', 'group', 'train_images', 'positives')
    # As in the table of average precisions; sorting is stable.
    for row in sorted(
        chosen.classes, key=lambda c: -(c.get('train_images') or 0)
    ):
        figures = (_percent(row.get(key)) for key in FIGURES)
        threshold = f'{row["threshold"]:.3f}'
        rows.append([*map(row.get, facts), threshold, *figures])
    header = ['Class', 'Group', 'Train images', 'Positives', 'Threshold']
    return table([*header, 'Precision', 'Recall', 'F1'], rows)


def _percent(figure: Sequence[float] | None) -> str:
    if figure is None:
        return '-'
    value, low, high = (100 * x for x in figure)
    return f'{value:.1f} [{low:.1f}, {high:.1f}]'
