"""Carries the class statistics from the training data to the losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.models.heads import ClsHead, MultiLabelClsHead
from torch import nn

from ltml_mm.class_statistics import ClassStatistics


@HOOKS.register_module()
class ClassStatisticsHook(Hook):
    """Gives the training set's statistics to every module that takes them.

    Before training, after a checkpoint was loaded, each module of the model
    with a method ``set_class_statistics`` receives the counts of the
    training set. They live in its buffers and travel with the checkpoint.
    After ``load_from`` the data wins; on ``--resume`` counts that differ
    from the checkpoint's are an error, and so is a model with another number
    of classes than the training set's.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Sets the statistics.

        Args:
            runner: The runner, its model loaded.

        Raises:
            ValueError: The training set has no counts, a module has another
                number of classes, or a resumed checkpoint other counts.
        """
        dataset = runner.train_dataloader.dataset
        metainfo = getattr(dataset, 'metainfo', {})
        _check_num_classes(runner.model, metainfo.get('classes'))
        modules = statistics_modules(runner.model)
        if not modules:
            return
        statistics = ClassStatistics.from_metainfo(metainfo)
        for name, module in modules.items():
            if runner._resume:
                _check_resumed(name, module, statistics)
            module.set_class_statistics(statistics)


def statistics_modules(model: nn.Module) -> dict[str, Any]:
    """Returns the modules that take class statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, 'set_class_statistics')
    }


def _check_num_classes(
    model: nn.Module, classes: Sequence[str] | None
) -> None:
    if classes is None:
        return
    for name, module in model.named_modules():
        if not isinstance(module, (ClsHead, MultiLabelClsHead)):
            continue
        given = getattr(module, 'num_classes', len(classes))
        if given != len(classes):
            raise ValueError(
                f'{name} has num_classes={given}, but the training set has '
                f'{len(classes)} classes ({_shorten(classes)}): set '
                f"num_classes={len(classes)} in the config's model"
            )


def _shorten(names: Sequence[str]) -> str:
    shown = ', '.join(map(str, names[:3]))
    return f'{shown}, ...' if len(names) > 3 else shown


def _check_resumed(
    name: str, module: Any, statistics: ClassStatistics
) -> None:
    if getattr(module, 'num_classes', None) is None:
        return
    counts = tuple(module.class_counts.tolist())
    num_images = int(module.num_train_images)
    # Zero images: --resume found no checkpoint and the training starts.
    if num_images == 0:
        return
    if (counts, num_images) == (statistics.counts, statistics.num_images):
        return
    raise ValueError(
        f'{name}: the checkpoint was trained on {num_images} images with '
        f'class counts {list(counts)}, but the training set has '
        f'{statistics.num_images} with {list(statistics.counts)}. To go on '
        'with this data, start anew with --cfg-options load_from=CHECKPOINT '
        'in place of --resume'
    )
