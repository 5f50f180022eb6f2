"""Batch norms that keep the streams apart, against numpy."""

import copy

import numpy as np
import pytest
import torch
from fork_cases import images, resnet
from mmengine.model import convert_sync_batchnorm
from torch import nn

from ltml_mm.models.fork.backbone import fork_backbone
from ltml_mm.models.fork.branches import split_branches
from ltml_mm.models.fork.norms import StreamNorm, separate_stream_norms


def normalise(x, eps):
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    scale = np.sqrt(var + eps)[:, None, None]
    unbiased = x.var((0, 2, 3), ddof=1)
    return (x - mean[:, None, None]) / scale, mean, unbiased


@pytest.mark.parametrize('compiling', [False, True])
@pytest.mark.parametrize('momentum', [0.1, 0.3, None])
def test_each_half_is_normalised_by_itself(momentum, compiling, monkeypatch):
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: compiling)
    x = np.random.default_rng(0).normal(size=(6, 2, 3, 3))
    x[3:] = 4 * x[3:] + 7
    norm = nn.BatchNorm2d(2, momentum=momentum, dtype=torch.float64)
    separate_stream_norms(norm)
    actual = norm(torch.from_numpy(x))

    mean, var = np.zeros(2), np.ones(2)
    expected = []
    for step, half in enumerate((x[:3], x[3:]), start=1):
        out, batch_mean, batch_var = normalise(half, norm.eps)
        expected.append(out)
        rate = 1 / step if momentum is None else momentum
        mean = (1 - rate) * mean + rate * batch_mean
        var = (1 - rate) * var + rate * batch_var
    np.testing.assert_allclose(
        actual.detach().numpy(), np.concatenate(expected), rtol=1e-10
    )
    np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-10)
    np.testing.assert_allclose(norm.running_var, var, rtol=1e-10)
    assert norm.num_batches_tracked == 2


def test_gradients_are_those_of_two_calls(monkeypatch):
    x = torch.rand(6, 2, 3, 3, dtype=torch.float64)
    weight = torch.rand_like(x)
    found = []
    for compiling in (False, True):
        monkeypatch.setattr(
            torch.compiler, 'is_compiling', lambda value=compiling: value
        )
        norm = separate_stream_norms(nn.BatchNorm2d(2)).double()
        images = x.clone().requires_grad_()
        (norm(images) * weight).sum().backward()
        found.append([images.grad, norm.weight.grad, norm.bias.grad])
    torch.testing.assert_close(*found)


def test_evaluation_is_that_of_the_plain_layer():
    norm = nn.BatchNorm2d(2)
    norm.running_mean.fill_(3)
    norm.eval()
    x = torch.rand(5, 2, 3, 3)
    expected = norm(x)
    separate_stream_norms(norm)
    assert torch.equal(norm(x), expected)


def test_branch_sees_what_a_plain_backbone_sees_of_its_stream():
    plain = resnet()
    backbone = copy.deepcopy(plain)
    fork_backbone(backbone, bn_streams='separate')
    streams = images(3), 5 * images(3).flip(0) - 1
    outputs = split_branches(backbone(torch.cat(streams)), 6)
    for own in outputs.values():
        halves = own[-1][:3], own[-1][3:]
        for stream, half in zip(streams, halves, strict=True):
            expected = copy.deepcopy(plain)(stream)[-1]
            torch.testing.assert_close(half, expected, rtol=1e-5, atol=1e-5)


def test_joint_streams_leave_the_layers_alone():
    backbone = resnet()
    fork_backbone(backbone, bn_streams='joint')
    assert not any(isinstance(m, StreamNorm) for m in backbone.modules())


def test_keys_names_and_kind_stay():
    backbone = resnet()
    keys = list(backbone.state_dict())
    separate_stream_norms(backbone)
    assert list(backbone.state_dict()) == keys
    assert isinstance(backbone.bn1, nn.BatchNorm2d)
    assert 'streams=separate' in repr(backbone.bn1)
    # MMEngine's initialisers go by the names of the class and its bases.
    names = {c.__name__ for c in type(backbone.bn1).__bases__}
    assert type(backbone.bn1).__name__ == 'BatchNorm2d'
    assert '_BatchNorm' in names


def test_norm_eval_holds_the_layer():
    backbone = separate_stream_norms(resnet(norm_eval=True))
    backbone.train()
    backbone(images(3))
    assert torch.equal(backbone.bn1.running_mean, torch.zeros(8))


def test_synchronised_norms_are_kept_apart_when_asked_again():
    backbone = separate_stream_norms(resnet())
    backbone = convert_sync_batchnorm(backbone)
    assert not isinstance(backbone.bn1, StreamNorm)
    separate_stream_norms(backbone)
    assert isinstance(backbone.bn1, StreamNorm)
    assert isinstance(backbone.bn1, nn.SyncBatchNorm)
    kind = type(backbone.bn1)
    separate_stream_norms(backbone)
    assert type(backbone.bn1) is kind


def test_odd_batch_in_training_is_an_error():
    norm = separate_stream_norms(nn.BatchNorm2d(2))
    with pytest.raises(ValueError, match=r'odd batch of 3.*TwoStreamDataset'):
        norm(torch.rand(3, 2, 1, 1))
