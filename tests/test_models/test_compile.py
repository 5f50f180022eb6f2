"""Compiled training steps have the gradients of eager ones."""

import copy

import pytest
import torch
from two_branch_case import BACKBONE, HALF, batch, build

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
    'attention head': dict(head=dict(type='AttentionAtTestHead')),
    'CSRA': dict(head=dict(type='CSRAClsHead', num_heads=1, lam=0.1)),
    'norm_eval': dict(backbone=dict(BACKBONE, norm_eval=True)),
    'frozen': dict(backbone=dict(BACKBONE, frozen_stages=2)),
    'swin': dict(backbone=SWIN),
}


def step(model, forward):
    """Loss and gradients of one training step, and the buffers after it."""
    torch.manual_seed(0)
    model.zero_grad()
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


def assert_compiled_steps_agree(options, device='cpu', steps=2, **how):
    """Two steps, since the second one reads what the first one updated."""
    torch._dynamo.reset()
    eager = build(**copy.deepcopy(options)).to(device)
    model = copy.deepcopy(eager)
    compiled = torch.compile(model.forward, **how)
    for _ in range(steps):
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
    options = {**OPTIONS[name], 'backbone': HALF}
    assert_compiled_steps_agree(options, backend='aot_eager')


@pytest.mark.long
@pytest.mark.parametrize('name', OPTIONS)
def test_inductor_gradients_are_the_eager_ones(name):
    assert_compiled_steps_agree(OPTIONS[name])


@pytest.mark.gpu
@pytest.mark.parametrize('name', OPTIONS)
def test_gradients_of_cuda_graphs_are_the_eager_ones(name, exact_floats):
    """The third step is the first that replays what a GPU recorded."""
    how = dict(mode='reduce-overhead')
    assert_compiled_steps_agree(OPTIONS[name], 'cuda', steps=4, **how)
