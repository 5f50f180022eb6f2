"""Steps of training with what MMEngine and MMPretrain offer."""

import copy

import numpy as np
import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmpretrain.structures import DataSample
from two_branch_case import BRANCHES, K, batch, build

from ltml_mm.models.streams import stream_targets


def train(model, wrapper, steps, seed=0):
    losses = []
    for step in range(steps):
        data = batch(4, seed=seed + step)
        logs = model.train_step(data, wrapper)
        losses.append(logs['loss'].item())
    return losses


def sgd(model, lr=0.05):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def test_targets_are_the_labels_of_each_image():
    labels = {'uniform': [[], [2], [0, 1]], 'rebalanced': [[], []]}
    samples = {
        name: [DataSample().set_gt_label(np.array(x, int)) for x in own]
        for name, own in labels.items()
    }
    targets = stream_targets(samples, K, torch.device('cpu'))
    for name, own in labels.items():
        assert targets[name].dtype == torch.float32
        expected = [[float(k in image) for k in range(K)] for image in own]
        assert targets[name].tolist() == expected
    for wrong in (-1, K):
        samples['uniform'][1].set_gt_label([wrong])
        with pytest.raises(RuntimeError, match='Class values must be'):
            stream_targets(samples, K, torch.device('cpu'))


def test_training_moves_everything_that_learns():
    model = build()
    before = {k: v.clone() for k, v in model.named_parameters()}
    losses = train(model, OptimWrapper(sgd(model)), 3)
    assert np.isfinite(losses).all()
    still = [
        k for k, v in model.named_parameters() if torch.equal(v, before[k])
    ]
    assert still == []


class CPUAmpOptimWrapper(OptimWrapper):
    """MMEngine's AmpOptimWrapper needs a GPU; its context does not."""

    def optim_context(self, model):
        return torch.autocast('cpu', dtype=torch.bfloat16)


def test_autocast_follows_full_precision():
    full, mixed = build(), build()
    expected = train(full, OptimWrapper(sgd(full)), 3)
    found = train(mixed, CPUAmpOptimWrapper(sgd(mixed)), 3)
    assert found == pytest.approx(expected, rel=0.05)
    assert found != expected


@pytest.mark.gpu
def test_mixed_precision_follows_full_precision():
    full, mixed = build().cuda(), build().cuda()
    expected = train(full, OptimWrapper(sgd(full)), 3)
    found = train(mixed, AmpOptimWrapper(optimizer=sgd(mixed)), 3)
    assert found == pytest.approx(expected, rel=0.05)
    assert found != expected


def test_gradient_accumulation_equals_the_mean_gradient():
    model = build().eval()  # batch statistics would differ
    reference = copy.deepcopy(model)
    wrapper = OptimWrapper(sgd(model, 0.1), accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 2)
    train(model, wrapper, 2)
    optimizer = sgd(reference, 0.1)
    for step in range(2):
        data = reference.data_preprocessor(batch(4, seed=step), True)
        losses = reference(**data, mode='loss')
        (sum(losses.values()) / 2).backward()
    optimizer.step()
    for (name, a), b in zip(
        model.named_parameters(), reference.parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


def test_separate_streams_have_batch_statistics_of_their_own():
    joint, separate = build(), build(bn_streams='separate')
    assert joint.state_dict().keys() == separate.state_dict().keys()
    data = batch(4)
    data['inputs']['rebalanced'] *= 5
    alone = copy.deepcopy(separate)
    separate.train()
    images = torch.cat([data['inputs'][name] for name in BRANCHES])
    both = separate.branch_logits(images)['uniform'][:4]
    twice = torch.cat([data['inputs']['uniform']] * 2)
    only = alone.train().branch_logits(twice)['uniform'][:4]
    torch.testing.assert_close(both, only, rtol=1e-4, atol=1e-5)
    mixed = joint.train().branch_logits(images)['uniform'][:4]
    assert (mixed - only).abs().max() > 1e-3
