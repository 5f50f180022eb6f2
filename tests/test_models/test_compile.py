"""Compiled training steps have the gradients of eager ones."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from two_branch_case import BACKBONE, batch, build

from ltml_mm.engine import ConsistencyLimitHook

SWIN = dict(
    type='SwinTransformer',
    arch=dict(embed_dims=16, depths=[1, 1], num_heads=[1, 2]),
    img_size=32,
    patch_size=4,
    window_size=4,
    out_indices=(1,),
    drop_path_rate=0.0,  # inductor draws other random numbers
)
LEARNABLE = 'LogitCompensatedBCELoss'
#: Every option of the network, one at a time.
OPTIONS = {
    'joint': {},
    'separate': dict(fork=dict(bn_streams='separate')),
    'separate and momentum None': dict(
        fork=dict(bn_streams='separate'),
        backbone=dict(BACKBONE, norm_cfg=dict(type='BN', momentum=None)),
    ),
    'reinit': dict(fork=dict(init='reinit')),
    'fork at layer3': dict(fork=dict(at=['layer3', 'layer4'])),
    'probs': dict(loss_consistency=dict(on='probs')),
    'sum': dict(loss_consistency=dict(reduction='sum')),
    'detach': dict(loss_consistency=dict(detach=True)),
    'statistics': dict(
        loss_cls=dict(type=LEARNABLE, compensation='statistics')
    ),
    'no compensation': dict(
        loss_cls=dict(type=LEARNABLE, compensation='none', weighting=False)
    ),
    'distribution balanced': dict(
        loss_cls=dict(type='DistributionBalancedLoss')
    ),
    'asymmetric': dict(loss_cls=dict(type='AsymmetricLoss')),
    'fuse': dict(fork=dict(fuse='probs')),
    'attention head': dict(head=dict(type='AttentionAtTestHead')),
    'CSRA': dict(head=dict(type='CSRAClsHead', num_heads=1, lam=0.1)),
    'norm_eval': dict(backbone=dict(BACKBONE, norm_eval=True)),
    'frozen': dict(backbone=dict(BACKBONE, frozen_stages=2)),
    'swin': dict(backbone=SWIN),
}


def step(model, forward):
    """Loss and gradients of one training step, and the buffers after it."""
    torch.manual_seed(0)
    device = next(model.parameters()).device
    data = batch(4)
    for name, images in data['inputs'].items():
        data['inputs'][name] = images.to(device)
    losses = forward(**data, mode='loss')
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    gradients = {
        k: p.grad for k, p in model.named_parameters() if p.requires_grad
    }
    return losses, gradients, dict(model.named_buffers())


def assert_compiled_steps_agree(options, backend, device='cpu'):
    """Two steps, since the second one reads what the first one updated."""
    torch._dynamo.reset()
    eager = build(**copy.deepcopy(options)).to(device)
    model = copy.deepcopy(eager)
    compiled = torch.compile(model.forward, backend=backend)
    for _ in range(2):
        losses, gradients, buffers = step(eager, eager.forward)
        found = step(model, compiled)
        largest = max(g.abs().max() for g in gradients.values())
        torch.testing.assert_close(found[0], losses, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            found[1], gradients, rtol=1e-3, atol=1e-4 * float(largest)
        )
        torch.testing.assert_close(found[2], buffers, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['joint', 'separate'])
def test_traced_gradients_are_the_eager_ones(name):
    """What autograd traces, without the code that inductor writes."""
    assert_compiled_steps_agree(OPTIONS[name], 'aot_eager')


def test_a_rate_that_changes_is_not_compiled_anew():
    """Past eight graphs the limit of the consistency would run eagerly."""
    torch._dynamo.reset()
    models = [build(fork=dict(init='reinit')) for _ in range(2)]
    graphs, values = [], []
    compiled = torch.compile(
        models[0].forward,
        backend=lambda graph, _: graphs.append(graph) or graph,
    )
    forwards = (compiled, models[1].forward)
    for model, forward in zip(models, forwards, strict=True):
        optimizer = torch.optim.SGD(model.parameters(), 1.0, momentum=0.9)
        hook = ConsistencyLimitHook(limit=1e-4)
        wrapper = OptimWrapper(optimizer)
        runner = SimpleNamespace(model=model, optim_wrapper=wrapper)
        hook.before_train(runner)
        for number in range(10):
            optimizer.param_groups[0]['lr'] = 1 + number
            hook.before_train_iter(runner, number)
            values.append(step(model, forward)[0]['loss_consistency'].item())
    assert len(set(values[:10])) == 10
    assert values[:10] == pytest.approx(values[10:], rel=1e-4)
    assert len(graphs) <= 4


@pytest.mark.long
@pytest.mark.parametrize('name', OPTIONS)
def test_inductor_gradients_are_the_eager_ones(name):
    assert_compiled_steps_agree(OPTIONS[name], 'inductor')


@pytest.mark.gpu
@pytest.mark.parametrize('name', OPTIONS)
def test_inductor_gradients_on_a_gpu_are_the_eager_ones(name, exact_floats):
    assert_compiled_steps_agree(OPTIONS[name], 'inductor', 'cuda')
