"""A hook that spoils one step of a tiny training."""

import os
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Poison(Hook):
    """Puts NaN into images or labels, and notes the states around it.

    Args:
        steps: Which steps, from 1.
        what: 'images', of the uniform stream, or 'labels', the first of the
            re-balanced one.
        rank: On which process.
        out_dir: Where each process writes its errors, and its weights at
            the end.
    """

    def __init__(self, steps, what='images', rank=0, out_dir=None):
        self.steps = steps
        self.what = what
        self.rank = rank
        self.out_dir = out_dir
        self.before, self.after = {}, {}
        self.names = {}

    def before_run(self, runner):
        if self.out_dir is not None:
            # What a forked process inherits belongs to another test.
            path = Path(self.out_dir) / f'rank_{get_rank()}.txt'
            with path.open('w') as file:
                os.dup2(file.fileno(), 2)

    def before_train_iter(self, runner, batch_idx, data_batch):
        step = runner.iter + 1
        self.before[step] = states(runner)
        self.names[step] = [
            sample.img_path
            for samples in data_batch['data_samples'].values()
            for sample in samples
        ]
        if step not in self.steps or get_rank() != self.rank:
            return
        if self.what == 'images':
            images = data_batch['inputs']['uniform']
            data_batch['inputs']['uniform'] = images.float() * torch.nan
        else:
            samples = data_batch['data_samples']['rebalanced']
            for sample in samples:
                sample.set_gt_score(torch.tensor([1.0, 0, 1]))
            samples[0].gt_score[0] = torch.nan

    def after_train_iter(self, runner, *args, **kwargs):
        self.after[runner.iter + 1] = states(runner)

    def after_train(self, runner):
        if self.out_dir is not None:
            path = Path(self.out_dir) / f'rank_{get_rank()}.pth'
            torch.save(states(runner)[0], path)


def states(runner):
    """Copies weights and buffers, and what the optimizer keeps."""
    model = getattr(runner.model, 'module', runner.model)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    momenta = [
        value.clone()
        for state in runner.optim_wrapper.optimizer.state.values()
        for value in state.values()
    ]
    return weights, momenta
