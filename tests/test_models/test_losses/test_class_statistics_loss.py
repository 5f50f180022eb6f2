from __future__ import annotations

import pytest
import torch

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.models.losses import (
    ClassBalancedFocalLoss,
    DistributionBalancedLoss,
    LogitCompensatedBCELoss,
    MultiLabelLDAMLoss,
    ReweightedBCELoss,
)

BASELINES = [
    ClassBalancedFocalLoss,
    DistributionBalancedLoss,
    MultiLabelLDAMLoss,
    ReweightedBCELoss,
]
LOSSES = [*BASELINES, LogitCompensatedBCELoss]


def make_logits():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('loss_type', BASELINES)
def test_a_class_without_images_is_named(loss_type):
    loss = loss_type(num_classes=3)
    with pytest.raises(
        ValueError, match=rf'{loss_type.__name__} divides .*\[0, 2\]'
    ):
        loss.set_class_statistics(ClassStatistics((0, 5, 0), 9))
    assert loss.num_train_images == 0, 'half-set statistics'


@pytest.mark.parametrize('loss_type', LOSSES)
def test_a_copy_from_a_checkpoint_gives_the_same_loss(loss_type):
    loss = loss_type(num_classes=3)
    loss.set_class_statistics(ClassStatistics((60, 12, 3), 100))
    copy = loss_type(num_classes=3)
    logits, target = make_logits(), torch.eye(4, 3)
    with pytest.raises(ValueError, match='ClassStatisticsHook'):
        copy(logits, target)
    copy.load_state_dict(loss.state_dict())
    torch.testing.assert_close(copy(logits, target), loss(logits, target))


@pytest.mark.parametrize('loss_type', LOSSES)
def test_means_do_not_depend_on_batch_size(loss_type):
    loss = loss_type(num_classes=3, loss_weight=3.0)
    loss.set_class_statistics(ClassStatistics((60, 12, 3), 100))
    logits, target = make_logits(), torch.eye(4, 3)
    torch.testing.assert_close(
        loss(logits.repeat(5, 1), target.repeat(5, 1)),
        loss(logits, target, avg_factor=4),
    )
    single = loss_type(num_classes=3, loss_weight=1.0)
    single.set_class_statistics(ClassStatistics((60, 12, 3), 100))
    torch.testing.assert_close(
        loss(logits, target), 3 * single(logits, target)
    )
