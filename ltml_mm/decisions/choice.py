"""Chooses one threshold a class, and measures what it brings."""

from __future__ import annotations

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

    Args:
        scores: From 0 to 1, of shape (N, K).
        targets: bool (N, K).
        groups: The group of each class.
        metric: What is to be reached.
        prior: The positives at which both count alike, 0 for own thresholds.

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


def stratified_folds(
    targets: np.ndarray, count: int, seed: int = 0
) -> list[np.ndarray]:
    """Deals images into parts of like size and like classes.

    Returns:
        list[np.ndarray]: The indices of each part, ascending.
    """
    rest, folds = np.arange(len(targets)), []
    for left in range(count, 1, -1):
        part = stratified_holdout(targets[rest], 1 / left, seed)
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

    Args:
        decided: bool (N, K).
        targets: bool (N, K).

    Returns:
        list[dict]: ``positives``, and ``precision``, ``recall`` and ``f1``,
        each ``[value, low, high]`` with a Wilson interval, or None where
        nothing was predicted, or is there. F1 = 2J / (1 + J), where J is the
        share of hits among what is predicted or true.
    """
    rows = []
    tp = (decided & targets).sum(0)
    for hit, said, true in zip(
        tp.tolist(),
        decided.sum(0).tolist(),
        targets.sum(0).tolist(),
        strict=True,
    ):
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
    decided: np.ndarray,
    targets: np.ndarray,
    groups: Sequence[str | None],
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Measures decisions over all classes and by group.

    Returns:
        dict: ``micro``, ``macro`` and each group with a positive, to
        ``precision``, ``recall`` and ``f1``: ``[value, low, high]`` with a
        95 % interval of :data:`RESAMPLINGS` bootstraps over images. Means
        are over the classes with a positive; what is never predicted has the
        precision 0.
    """
    hits = (decided & targets).astype(np.float32)
    arrays = hits, decided.astype(np.float32), targets.astype(np.float32)
    rng = np.random.default_rng(seed)
    count = len(targets)
    known = targets.any(0)
    members = {'macro': known}
    for name in GROUPS:
        inside = known & np.array([group == name for group in groups])
        if inside.any():
            members[name] = inside
    drawn: dict[str, list[list[float]]] = {}
    for number in range(RESAMPLINGS + 1):
        times: Any = np.ones(count)  # first come the images themselves
        if number:
            times = rng.multinomial(count, np.full(count, 1 / count))
        weights = times.astype(np.float32)
        tp, said, true = (weights @ array for array in arrays)
        figures = _ratios(tp, said, true)
        present = true > 0
        total = _ratios(tp.sum(), said.sum(), true.sum())
        drawn.setdefault('micro', []).append([float(x) for x in total])
        for name, inside in members.items():
            rows = figures[:, inside & present]
            if rows.size:
                drawn.setdefault(name, []).append(rows.mean(1).tolist())
    return {name: _intervals(np.array(rows)) for name, rows in drawn.items()}


def _ratios(tp: Any, said: Any, true: Any) -> np.ndarray:
    parts = (tp, said), (tp, true), (2 * tp, said + true)
    return np.array([up / np.maximum(down, 1e-9) for up, down in parts])


def _intervals(rows: np.ndarray) -> dict[str, list[float]]:
    low, high = np.percentile(rows[1:], [2.5, 97.5], axis=0)
    columns = zip(rows[0], low, high, strict=True)
    names = ('precision', 'recall', 'f1')
    return {
        name: [float(value) for value in column]
        for name, column in zip(names, columns, strict=True)
    }


def choose_thresholds(
    scores: np.ndarray,
    targets: np.ndarray,
    class_info: Sequence[Mapping[str, Any]],
    metric: Metric,
    model: Mapping[str, str],
    chosen_on: Mapping[str, Any],
) -> Thresholds:
    """Chooses thresholds on all images, and measures them on held-out ones.

    The figures are of :data:`FOLDS`-fold cross-validation: an image is
    decided by thresholds that the other folds chose.

    Args:
        scores: From 0 to 1, of shape (N, K).
        targets: bool (N, K).
        class_info: ``name``, ``group`` and ``train_images`` of each class.
        metric: What is to be reached.
        model: Name and digest of the model, see :class:`Thresholds`.
        chosen_on: What the images are, see :class:`Thresholds`.

    Raises:
        ValueError: No image has a label.
    """
    if not targets.any():
        raise ValueError(
            'no image has a label, so there is no threshold to choose'
        )
    groups = [info['group'] for info in class_info]
    values, own = choose(scores, targets, groups, metric)
    decided = held_out_decisions(scores, targets, groups, metric)
    figures = class_figures(decided, targets)
    rows = [
        {
            **info,
            'threshold': float(values[k]),
            'own_threshold': None if np.isnan(own[k]) else float(own[k]),
            **figures[k],
        }
        for k, info in enumerate(class_info)
    ]
    summary = summary_figures(decided, targets, groups)
    return Thresholds(
        model,
        metric.text,
        {**chosen_on, 'images': len(targets)},
        rows,
        summary,
    )


def measure(
    thresholds: Thresholds, scores: np.ndarray, targets: np.ndarray
) -> Thresholds:
    """Returns thresholds with the figures that they reach on other images.

    Args:
        thresholds: They were chosen elsewhere.
        scores: From 0 to 1, of shape (N, K).
        targets: bool (N, K).
    """
    decided = thresholds.decide(scores)
    figures = class_figures(decided, targets)
    groups = [row.get('group') for row in thresholds.classes]
    rows = [
        {**row, **new}
        for row, new in zip(thresholds.classes, figures, strict=True)
    ]
    summary = summary_figures(decided, targets, groups)
    return replace(thresholds, classes=rows, summary=summary)


def gain_text(
    thresholds: Thresholds, scores: np.ndarray, targets: np.ndarray
) -> str:
    """Says what thresholds change beside the common one, in two lines."""
    groups = [row.get('group') for row in thresholds.classes]
    common = scores >= DEFAULT_THRESHOLD
    lines = []
    for words, decided, summary in (
        (
            f'At {DEFAULT_THRESHOLD}',
            common,
            summary_figures(common, targets, groups),
        ),
        (
            'At these thresholds',
            thresholds.decide(scores),
            thresholds.summary,
        ),
    ):
        value, low, high = (100 * x for x in summary['macro']['f1'])
        never = np.count_nonzero(~decided.any(0))
        bare = np.count_nonzero(~decided.any(1))
        lines.append(
            f'{words}: macro F1 {value:.1f} [{low:.1f}, {high:.1f}], {never} '
            f'of {len(groups)} classes never named, {bare} of {len(decided)} '
            'images without a label'
        )
    return '\n'.join(lines)


def add_decisions(report: dict[str, Any], thresholds: Thresholds) -> None:
    """Adds thresholds and F1 in percent to a class report, in place."""
    for row, chosen in zip(report['classes'], thresholds.classes, strict=True):
        row['threshold'] = chosen['threshold']
        row['F1'] = None if chosen['f1'] is None else 100 * chosen['f1'][0]
    for name, figures in thresholds.summary.items():
        if name != 'micro':
            key = 'F1' if name == 'macro' else f'F1_{name}'
            report['summary'][key] = 100 * figures['f1'][0]


def threshold_table(chosen: Thresholds) -> str:
    """Renders thresholds and figures in percent, with 95 % intervals."""
    # As in the table of average precisions; sorting is stable.
    ranked = sorted(
        chosen.classes, key=lambda c: -(c.get('train_images') or 0)
    )
    header = ['Class', 'Group', 'Train images', 'Positives', 'Threshold']
    titles = ['Precision', 'Recall', 'F1']
    return table(
        [*header, *titles],
        [
            *(
                [name, *[''] * 4, *_figures(row)]
                for name, row in chosen.summary.items()
            ),
            *(
                [
                    row['name'],
                    row.get('group') or '-',
                    '-' if (n := row.get('train_images')) is None else n,
                    row['positives'],
                    f'{row["threshold"]:.3f}',
                    *_figures(row),
                ]
                for row in ranked
            ),
        ],
    )


def _figures(row: Mapping[str, Any]) -> list[str]:
    shown = []
    for name in ('precision', 'recall', 'f1'):
        if row.get(name) is None:
            shown.append('-')
        else:
            value, low, high = (100 * x for x in row[name])
            shown.append(f'{value:.1f} [{low:.1f}, {high:.1f}]')
    return shown
