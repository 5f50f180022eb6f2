"""Carries the class statistics from the training data to the losses."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ltml_mm.statistics import ClassStatistics


@HOOKS.register_module()
class ClassStatisticsHook(Hook):
    """Gives the training set's statistics to every module that takes them.

    Before training, after a checkpoint was loaded, each module of the model
    with a method ``set_class_statistics`` receives the counts of the
    training set. They live in its buffers and travel with the checkpoint.
    After ``load_from`` the data wins; on ``--resume`` counts that differ
    from the checkpoint's are an error.
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
        modules = statistics_modules(runner.model)
        if not modules:
            return
        metainfo = runner.train_dataloader.dataset.metainfo
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
