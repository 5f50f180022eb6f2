"""A hook that writes down what one process of a run did."""

from pathlib import Path

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

STREAMS = ('uniform', 'rebalanced')


@HOOKS.register_module()
class RankProbe(Hook):
    """Saves draws, pixels, metrics and weights of this process."""

    priority = 'LOWEST'

    def __init__(self, out_dir):
        self.out_dir = out_dir
        self.draws = {name: [] for name in STREAMS}
        self.metrics = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        for name in STREAMS:
            samples = data_batch['data_samples'][name]
            images = data_batch['inputs'][name]
            self.draws[name] += [
                (Path(sample.img_path).name, int(image.long().sum()))
                for sample, image in zip(samples, images, strict=True)
            ]

    def after_val_epoch(self, runner, metrics):
        self.metrics.append(metrics)

    def after_train(self, runner):
        model = runner.model
        if is_model_wrapper(model):
            model = model.module
        record = dict(
            draws=self.draws, metrics=self.metrics, state=model.state_dict()
        )
        name = f'rank{get_rank()}of{get_world_size()}.pt'
        torch.save(record, Path(self.out_dir) / name)
