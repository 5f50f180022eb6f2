"""A hook that writes down what one process of a run did."""

from pathlib import Path

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.registry import HOOKS, MODELS
from mmpretrain.structures import DataSample

from ltml_mm.class_statistics import ClassStatistics

STREAMS = ('uniform', 'rebalanced')
COMPENSATIONS = ('learnable', 'statistics')
SIZE = 8


@HOOKS.register_module()
class RankProbe(Hook):
    """Saves draws, pixels, metrics, gradients and weights of this process."""

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
            draws=self.draws,
            metrics=self.metrics,
            state=model.state_dict(),
            steps={name: one_step(runner.cfg, name) for name in COMPENSATIONS},
        )
        name = f'rank{get_rank()}of{get_world_size()}.pt'
        torch.save(record, Path(self.out_dir) / name)


def one_step(cfg, compensation):
    """Gradients and loss buffers after one step on this process's share."""
    rank, world_size = get_rank(), get_world_size()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = dict(type='LogitCompensatedBCELoss', compensation=compensation)
        model = MODELS.build({**cfg.model, 'loss_cls': loss}).double()
        images = torch.randn(2, SIZE, 3, 32, 32, dtype=torch.float64)
        labels = (torch.rand(2, SIZE, model.num_classes) < 0.4).float()
    for loss in model.loss_cls.values():
        loss.set_class_statistics(ClassStatistics((30, 20, 9), 40))
    model.train()
    parallel = model
    if world_size > 1:
        parallel = MMDistributedDataParallel(model, device_ids=None)
    own = slice(rank, None, world_size)
    inputs = {n: images[i, own] for i, n in enumerate(STREAMS)}
    samples = {
        name: [DataSample().set_gt_score(row) for row in labels[i, own]]
        for i, name in enumerate(STREAMS)
    }
    losses = parallel(inputs, samples, mode='loss')
    model.parse_losses(losses)[0].backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    return gradients, dict(model.loss_cls.named_buffers())
