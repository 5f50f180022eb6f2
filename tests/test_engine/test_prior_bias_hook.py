"""A training starts at the frequencies of the classes."""

import pytest
import torch
from engine_runner import Model, Numbers, make_runner
from mmpretrain.models import MultiLabelLinearClsHead

from ltml_mm.models import LogitCompensatedBCELoss

HOOKS = ['ClassStatisticsHook', 'PriorBiasHook']


class Headed(Model):
    """Two linear heads of one feature, of which one has no bias."""

    def __init__(self):
        loss = LogitCompensatedBCELoss('none', weighting=False)
        super().__init__(loss=loss)
        self.fc = MultiLabelLinearClsHead(num_classes=3, in_channels=1)
        self.other = MultiLabelLinearClsHead(num_classes=3, in_channels=1)
        self.other.fc = torch.nn.Linear(1, 3, bias=False)
        self.seen = []

    def forward(self, inputs, labels, mode):
        self.seen.append(self.fc.fc.bias.detach().clone())
        logits = self.fc((torch.stack(list(inputs)),))
        return {'loss': self.loss(logits, labels)}


def train(work_dir, **options):
    model = Headed()
    make_runner(
        work_dir, model, Numbers((6, 2, 0)), hooks=HOOKS, **options
    ).train()
    return model


def test_the_first_step_sees_the_frequencies(tmp_path):
    probabilities = train(tmp_path).seen[0].double().sigmoid()
    # (n + 1) of (N + 2) images.
    expected = torch.tensor([0.7, 0.3, 0.1], dtype=torch.float64)
    assert probabilities.numpy() == pytest.approx(expected.numpy(), rel=1e-6)


def test_a_checkpoint_keeps_its_biases(tmp_path):
    first = train(tmp_path)
    last = first.fc.fc.bias
    path = str(tmp_path / 'epoch_1.pth')
    assert torch.equal(train(tmp_path / 'b', load_from=path).seen[0], last)
    longer = dict(by_epoch=True, max_epochs=2)
    again = train(tmp_path, resume=True, train_cfg=longer)
    assert torch.equal(again.seen[0], last)


def test_a_resume_without_a_checkpoint_is_a_start(tmp_path):
    assert train(tmp_path, resume=True).seen[0][0] == pytest.approx(
        0.8473, 1e-4
    )
