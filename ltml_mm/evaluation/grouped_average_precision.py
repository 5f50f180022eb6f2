"""Average precision, and its mean over head, medium and tail classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS

from ltml_mm.class_statistics import HEAD_COUNT, TAIL_COUNT, ClassStatistics
from ltml_mm.evaluation.report import class_report

# The field in which a two-branch model leaves its branches' scores.
BRANCHES_KEY = 'branch_scores'


def average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    r"""Computes the average precision of every class.

    The area under the uninterpolated precision-recall curve,

    .. math::
        \text{AP} = \sum_n (R_n - R_{n-1}) P_n

    with one point per distinct score, so that the order of equal scores does
    not matter: scikit-learn's ``average_precision_score``, computed as the
    mean over a class's positives of the precision at their score.

    Args:
        scores: Any real dtype of shape (N, K), higher where more likely
            positive; infinities are allowed.
        targets: bool or number of shape (N, K); larger than 0.5 is positive.

    Returns:
        np.ndarray: The AP of every class from 0 to 1, float64 of shape (K,);
        NaN for a class without a positive.

    Raises:
        ValueError: The shapes differ or are not two-dimensional, or a score
            is NaN; names the first image and class with one.

    Examples:
        >>> scores = np.array([[0.9, 0.1], [0.5, 0.2], [0.5, 0.3]])
        >>> targets = np.array([[1, 0], [1, 0], [0, 0]])
        >>> average_precision(scores, targets)
        array([0.83333333,        nan])
    """
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(
            'scores and targets must both have the shape (images, classes), '
            f'got {scores.shape} and {targets.shape}'
        )
    ap = np.full(scores.shape[1], np.nan)
    # Column by column: a copy of all would double the memory.
    for index in range(len(ap)):
        column = scores[:, index].copy()
        hits = column[targets[:, index] > 0.5]
        column.sort()  # NaN sorts last
        if column.size and np.isnan(column[-1]):
            image = int(np.isnan(scores[:, index]).argmax())
            raise ValueError(
                f'the score of image {image} for class {index} is NaN, which '
                'has no rank; look at the checkpoint and at the pictures of '
                'that batch'
            )
        if hits.size:
            # Positives and images from every positive's score on.
            hits.sort()
            true = hits.size - np.searchsorted(hits, hits)
            predicted = column.size - np.searchsorted(column, hits)
            ap[index] = (true / predicted).mean()
    return ap


@METRICS.register_module()
class GroupedAveragePrecision(BaseMetric):
    """mAP over all classes and over those of each training frequency.

    The AP of a class is that of :func:`average_precision`, the groups follow
    the training counts in the dataset's ``metainfo``: the protocol of VOC-LT
    and COCO-LT (Wu et al., *Distribution-Balanced Loss*, ECCV 2020). It
    gives, in percent, ``multi-label/mAP``, ``mAP_head``, ``mAP_medium`` and
    ``mAP_tail``. A class without a positive in the test set is left out of
    the means and named in one warning; a group left empty has no key.

    It reads ``pred_score`` (K,) of every data sample, and ``gt_score`` (K,)
    where present (above 0.5 is positive), else ``gt_label``.

    Args:
        head (int): Classes with at least this many training images are head
            classes. Defaults to 100.
        tail (int): Classes with fewer are tail classes. Defaults to 20.
        classwise (bool): Whether to give every class as well, as
            ``multi-label/AP/<name>``. Defaults to False.
        branches (bool): Whether to give the means of every branch as well,
            as ``multi-label/uniform/mAP`` and so on, where the data samples
            hold ``branch_scores``, a dict of (K,) tensors. Defaults to True.
        collect_device (str): Where results of several processes are
            gathered, ``'cpu'`` or ``'gpu'``. Defaults to ``'cpu'``.
        prefix (str, optional): Takes the place of ``multi-label``.

    Raises:
        ValueError: The dataset has no ``class_counts``, a data sample lacks
            scores or labels or has a wrong number of them, a label is out of
            range, a score is NaN, or no image has any label.

    Attributes:
        report: The figures of the last evaluation, as
            :func:`~ltml_mm.evaluation.class_report` returns them; None
            before the first, and on all processes but the first.
        evaluated: The scores, float32 (N, K), and labels, bool (N, K), of
            the last evaluation, where ``report`` is that.

    Examples:
        >>> import torch
        >>> from mmengine.evaluator import Evaluator
        >>> from mmpretrain.structures import DataSample
        >>> samples = [
        ...     DataSample().set_pred_score(torch.tensor(s)).set_gt_label(y)
        ...     for s, y in [([.9, .1], [0]), ([.5, .2], [0, 1])]
        ... ]
        >>> evaluator = Evaluator(GroupedAveragePrecision())
        >>> evaluator.dataset_meta = dict(
        ...     classes=('cat', 'cow'), class_counts=[120, 3])
        >>> evaluator.process(samples)
        >>> for key, value in evaluator.evaluate(2).items():
        ...     print(key, value)
        multi-label/mAP 100.0
        multi-label/mAP_head 100.0
        multi-label/mAP_tail 100.0
    """

    default_prefix = 'multi-label'

    def __init__(
        self,
        head: int = HEAD_COUNT,
        tail: int = TAIL_COUNT,
        classwise: bool = False,
        branches: bool = True,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.head = head
        self.tail = tail
        self.classwise = classwise
        self.branches = branches
        self.report: dict[str, Any] | None = None
        self.evaluated: tuple[np.ndarray, np.ndarray] | None = None

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps scores and labels of one batch, one dict per image."""
        for sample in data_samples:
            given = {'': sample['pred_score']}
            if self.branches:
                given.update(sample.get(BRANCHES_KEY) or {})
            scores = {
                name: sample_scores(s, sample) for name, s in given.items()
            }
            targets = sample_targets(sample, scores[''].size)
            self.results.append((scores, targets))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Computes the means in percent, and the report for tables."""
        meta = self.dataset_meta or {}
        statistics = ClassStatistics.from_metainfo(meta)
        targets = np.stack([row for _, row in results])
        if targets.shape[1] != statistics.num_classes:
            raise ValueError(
                f'the model gives {targets.shape[1]} scores an image, the '
                f'dataset has {statistics.num_classes} classes; set '
                'num_classes of the model to that'
            )
        test_counts = targets.sum(0, dtype=np.int64)
        ap = {}
        for name in results[0][0]:
            scores = np.stack([row[name] for row, _ in results])
            if not name:
                self.evaluated = scores, targets.astype(bool)
            ap[name] = 100 * average_precision(scores, targets)
        classes = meta.get('classes') or range(statistics.num_classes)
        names = [str(name) for name in classes]
        # Before self.report is set: None marks the first evaluation, the
        # only one that warns.
        self._name_absent(names, test_counts)
        self.report = class_report(
            names, statistics, ap, test_counts.tolist(), self.head, self.tail
        )
        metrics = dict(self.report['summary'])
        if self.classwise:
            for row in self.report['classes']:
                if row['AP'] is not None:
                    metrics[f'AP/{row["name"]}'] = row['AP']
        return metrics

    def _name_absent(self, names: list[str], counts: np.ndarray) -> None:
        """Warns of classes without a positive, at the first evaluation."""
        absent = [names[k] for k in np.flatnonzero(counts == 0)]
        if len(absent) == len(names):
            raise ValueError(
                'no image of the test set has a label, so there is no average '
                'precision to compute; look at its annotation file'
            )
        if absent and self.report is None:
            told = ', '.join(absent[:10])
            if len(absent) > 10:
                told += f' and {len(absent) - 10} more'
            MMLogger.get_current_instance().warning(
                'Without a positive in the test set, and therefore left out '
                f'of the means: {told}.'
            )


def group_bounds(cfg: Mapping[str, Any]) -> dict[str, int]:
    """Reads the bounds of the groups from the evaluators of a config.

    Returns:
        dict: ``head`` and ``tail``, where a
        :class:`GroupedAveragePrecision` of the test evaluator sets them, or,
        where that has none, of the validation's.
    """
    # Final figures come from the test evaluator, so its bounds win.
    for name in ('test_evaluator', 'val_evaluator'):
        for metric in _metrics(cfg.get(name)):
            if _is_grouped(metric):
                return {k: metric[k] for k in ('head', 'tail') if k in metric}
    return {}


def separate_metrics(cfg: Mapping[str, Any]) -> None:
    """Gives MMPretrain's AveragePrecision a prefix of its own, in place.

    Beside :class:`GroupedAveragePrecision` it reports ``mmpretrain/mAP``:
    under one prefix MMEngine refuses their ``mAP``, at the end of the test.
    """
    for name in ('test_evaluator', 'val_evaluator'):
        metrics = list(_metrics(cfg.get(name)))
        if any(map(_is_grouped, metrics)):
            for metric in metrics:
                kind = metric.get('type')
                kind = getattr(kind, '__name__', kind) or ''
                if kind.split('.')[-1] == 'AveragePrecision':
                    metric.setdefault('prefix', 'mmpretrain')


def _is_grouped(metric: Mapping[str, Any]) -> bool:
    kind = metric.get('type')
    kind = METRICS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, GroupedAveragePrecision)


def _metrics(evaluator: Any) -> Iterator[dict[str, Any]]:
    if isinstance(evaluator, dict):
        yield evaluator
        yield from _metrics(evaluator.get('metrics'))
    elif isinstance(evaluator, (list, tuple)):
        for metric in evaluator:
            yield from _metrics(metric)


def _place(sample: Mapping[str, Any]) -> str:
    return f'image {sample.get("img_path") or sample.get("sample_idx")}'


def sample_scores(scores: Any, sample: Mapping[str, Any]) -> np.ndarray:
    """Copies scores, float32 (K,): a view would keep the whole batch."""
    array = torch.as_tensor(scores).detach().float().cpu().numpy().copy()
    if array.ndim != 1:
        raise ValueError(
            f'{_place(sample)}: the scores must have the shape (classes,), '
            f'got {array.shape}'
        )
    if np.isnan(array).any():
        index = int(np.isnan(array).argmax())
        raise ValueError(
            f'{_place(sample)}: the score of class {index} is NaN; the '
            'weights or the picture hold values that are not finite'
        )
    return array


def sample_targets(sample: Mapping[str, Any], num_classes: int) -> np.ndarray:
    """Returns the labels as 0 and 1, uint8 (K,)."""
    if 'gt_score' in sample:
        hard = torch.as_tensor(sample['gt_score']).cpu().numpy() > 0.5
        if hard.shape != (num_classes,):
            raise ValueError(
                f'{_place(sample)}: "gt_score" has the shape {hard.shape}, '
                f'the model gives {num_classes} scores'
            )
        return hard.astype(np.uint8)
    if 'gt_label' not in sample:
        raise ValueError(
            f'{_place(sample)}: neither "gt_score" nor "gt_label"; the test '
            'pipeline must end with PackInputs, its annotations need labels'
        )
    labels = torch.as_tensor(sample['gt_label']).cpu().numpy()
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.size:
        raise ValueError(
            f'{_place(sample)}: label {outside[0]} is not one of the '
            f'{num_classes} classes'
        )
    targets = np.zeros(num_classes, np.uint8)
    targets[labels.astype(np.int64)] = 1
    return targets
