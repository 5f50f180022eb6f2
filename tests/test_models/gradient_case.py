"""Gradients of one process's share of a batch, for every loss option."""

import itertools
import os
from types import SimpleNamespace

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from two_branch_case import BRANCHES, HALF, K, build

from ltml_mm.engine import ConsistencyLimitHook

LOSSES = itertools.product(('learnable', 'statistics', 'none'), (True, False))
CHOICES = (('logits', 'probs'), ('mean', 'sum'), (True, False))
# The loss is a sum of both terms: each is tried with all of its options.
OPTIONS = [
    dict(
        loss_cls=dict(compensation=compensation, weighting=weighting),
        loss_consistency=dict(on=on, reduction=reduction, detach=detach),
    )
    for (compensation, weighting), (on, reduction, detach) in zip(
        itertools.cycle(LOSSES), itertools.product(*CHOICES), strict=False
    )
]
OTHER_LOSSES = [
    *('ReweightedBCELoss', 'ClassBalancedFocalLoss', 'MultiLabelLDAMLoss'),
    'DistributionBalancedLoss',
]
OPTIONS += [dict(loss_cls=dict(type=name)) for name in OTHER_LOSSES]
# At this rate the consistency is weakened, by the features of all images.
OPTIONS += [dict(OPTIONS[0], rate=1e4)]
SIZE = 6


def gradients(options):
    """Gradients and buffers of this process after one backward pass."""
    rank, world_size = get_rank(), get_world_size()
    options = dict(backbone=dict(HALF, norm_eval=True), **options)
    rate = options.pop('rate', None)
    model = build(**options).double()
    if rate is not None:
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), rate))
        runner = SimpleNamespace(model=model, optim_wrapper=wrapper)
        hook = ConsistencyLimitHook()
        hook.before_train(runner)
        hook.before_train_iter(runner, 0)
    torch.manual_seed(0)
    images = torch.randn(2, SIZE, 3, 32, 32, dtype=torch.float64)
    labels = (torch.rand(2, SIZE, K) < 0.4).float()
    with torch.no_grad():
        for head in model.heads.values():
            # Logits far from each other, so that every option matters.
            head.fc.weight.mul_(20)
            head.fc.bias.add_(torch.randn(K))
        for parameter in model.loss_cls.parameters():
            # They start as if there were none.
            parameter.add_(torch.rand(K))
    model.train()
    parallel = model
    if world_size > 1:
        parallel = MMDistributedDataParallel(model, device_ids=None)
    own = slice(rank, None, world_size)
    inputs = {n: images[i, own] for i, n in enumerate(BRANCHES)}
    samples = {
        name: [DataSample().set_gt_score(row) for row in labels[i, own]]
        for i, name in enumerate(BRANCHES)
    }
    losses = parallel(inputs, samples, mode='loss')
    model.parse_losses(losses)[0].backward()
    found = {n: p.grad for n, p in model.named_parameters()}
    buffers = {f'buffer {n}': b for n, b in model.named_buffers()}
    return {**found, **buffers}


def save_gradients(path, environ):
    """What a process of two does: writes all its gradients to a file."""
    os.environ.update(environ)
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    torch.save([gradients(options) for options in OPTIONS], path)
    torch.distributed.destroy_process_group()
