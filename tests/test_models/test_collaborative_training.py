"""Steps of training with what MMEngine and MMPretrain offer."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmpretrain.structures import DataSample
from two_branch_case import BACKBONE, BRANCHES, K, batch, build

from ltml_mm.models import streams
from ltml_mm.models.streams import branch_agreement, stream_targets


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


DIFFERENCE = 'agreement/rms_difference'
CORRELATION = 'agreement/correlation'
CONFIGS = Path(__file__).parents[2] / 'configs'


def logits(images=9, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    level = np.array([-6.0, -2.0, 0.0, 3.0])[:classes]
    u = level + rng.normal(size=(images, classes))
    r = level + 0.6 * (u - level) + rng.normal(size=(images, classes))
    return u.astype(np.float32), r.astype(np.float32)


def reference(u, r):
    """NumPy's correlation, class by class, in float64."""
    u, r = u.astype(np.float64), r.astype(np.float64)
    correlations = [
        np.corrcoef(u[:, k], r[:, k])[0, 1] for k in range(u.shape[1])
    ]
    difference = np.sqrt(((u - r) ** 2).mean())
    return {DIFFERENCE: difference, CORRELATION: np.mean(correlations)}


def found(u, r):
    result = branch_agreement(torch.as_tensor(u), torch.as_tensor(r))
    return {name: value.item() for name, value in result.items()}


@pytest.mark.parametrize('seed', range(3))
def test_values_equal_numpy(seed):
    u, r = logits(seed=seed)
    expected = reference(u, r)
    assert found(u, r) == pytest.approx(expected, rel=1e-5)
    # The classes' levels alone would be a correlation near 1.
    assert expected[CORRELATION] < 0.9
    assert np.corrcoef(u.ravel(), r.ravel())[0, 1] > 0.9


def test_equal_scaled_and_opposite_branches():
    u, _ = logits()
    assert found(u, u) == pytest.approx({DIFFERENCE: 0, CORRELATION: 1})
    assert found(u, 3 * u + 5)[CORRELATION] == pytest.approx(1)
    assert found(u, -u) == pytest.approx(
        {DIFFERENCE: 2 * np.sqrt((u**2).mean()), CORRELATION: -1}
    )


def test_a_class_with_equal_logits_counts_as_zero():
    u, r = logits()
    u[:, 1] = 0.1  # the mean of nine of them is not 0.1
    others = [0, 2, 3]
    expected = reference(u[:, others], r[:, others])[CORRELATION]
    assert found(u, r)[CORRELATION] == pytest.approx(expected * 3 / 4)


def test_half_precision_is_compared_in_full():
    u, r = (torch.from_numpy(z).bfloat16() for z in logits())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        result = branch_agreement(u, r)
    assert {value.dtype for value in result.values()} == {torch.float32}
    expected = reference(u.float().numpy(), r.float().numpy())
    for name, value in result.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-5)


@pytest.mark.parametrize('weight', [0.0, 0.1, 5.0])
def test_the_step_compares_all_images_whatever_lambda(weight):
    model = build(
        loss_consistency=dict(
            type='CrossBranchConsistencyLoss', loss_weight=weight
        )
    ).eval()
    data = batch(4)
    losses = model(**data, mode='loss')
    images = torch.cat([data['inputs'][name] for name in BRANCHES])
    with torch.no_grad():
        both = [z.numpy() for z in model.branch_logits(images).values()]
    for name, value in reference(*both).items():
        assert losses[name].item() == pytest.approx(value, rel=1e-3), name
        assert not losses[name].requires_grad


def test_loss_gradients_and_random_numbers_stay(monkeypatch):
    with_log = build(backbone=dict(BACKBONE, drop_path_rate=0.3))
    without = copy.deepcopy(with_log)
    results = []
    for model in (with_log, without):
        torch.manual_seed(1)
        losses = model.train()(**batch(4), mode='loss')
        total, log = model.parse_losses(losses)
        total.backward()
        gradients = [p.grad for p in model.parameters()]
        results.append((total.detach(), *gradients, torch.get_rng_state()))
        assert (CORRELATION in log) == (model is with_log)
        monkeypatch.setattr(streams, 'branch_agreement', lambda *z: {})
    for ours, expected in zip(*results, strict=True):
        assert torch.equal(ours, expected)


def test_configs_smooth_the_agreement_as_the_losses():
    config = Config.fromfile(CONFIGS / 'ltml_voc.py')
    pattern = re.compile(config.log_processor.mean_pattern)
    names = 'loss uniform.loss_cls time data_time grad_norm lr skipped_steps'
    names = [*names.split(), DIFFERENCE, CORRELATION]
    smoothed = {name for name in names if pattern.search(name)}
    assert len(smoothed) == 7
    assert not smoothed & {'lr', 'skipped_steps'}
