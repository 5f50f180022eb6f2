"""What fits in part is right for load_from and wrong for --resume."""

import pytest
import torch
from engine_runner import Model, make_runner
from mmengine.model import BaseModel

from ltml_mm.apis.checkpoint import read_checkpoint

HOOKS = ['ClassStatisticsHook', 'ResumeCheckHook']


@pytest.fixture
def trained(tmp_path):
    make_runner(tmp_path, hooks=HOOKS).train()
    return tmp_path / 'epoch_1.pth'


def start(work_dir, checkpoint, model=None, resume=True):
    runner = make_runner(
        work_dir, model, hooks=HOOKS, load_from=str(checkpoint), resume=resume,
        train_cfg=dict(by_epoch=True, max_epochs=2),
    )  # fmt: skip
    runner.train()
    return runner


def change(checkpoint, alter):
    content = read_checkpoint(checkpoint)
    alter(content['state_dict'])
    torch.save(content, checkpoint)


@pytest.mark.parametrize(
    ('alter', 'message'),
    [
        (lambda s: s.pop('fc.bias'), 'fc.bias is missing'),
        (lambda s: s.update(old=torch.ones(2)), 'old is unexpected'),
        (
            lambda s: s.update({'fc.weight': torch.ones(3, 2)}),
            r'fc.weight has shape \(3, 2\) instead of \(3, 1\)',
        ),
        (
            lambda s: s.update({'fc.weight': 'text'}),
            r'fc.weight has shape None instead of \(3, 1\)',
        ),
    ],
)
def test_a_difference_is_refused_and_named(trained, tmp_path, alter, message):
    assert start(tmp_path / 'a', trained).epoch == 2
    change(trained, alter)
    model = Model()
    before = model.fc.weight.detach().clone()
    with pytest.raises(ValueError, match=message) as caught:
        start(tmp_path / 'b', trained, model)
    assert torch.equal(model.fc.weight, before)  # Nothing was loaded.
    assert '1 differences' in str(caught.value)
    assert str(trained) in str(caught.value)
    assert 'load_from=CHECKPOINT' in str(caught.value)


def test_load_from_takes_what_fits(trained, tmp_path):
    change(trained, lambda s: s.pop('fc.bias'))
    assert start(tmp_path / 'b', trained, resume=False).epoch == 2


def test_many_differences_are_counted_and_the_first_named(trained, tmp_path):
    class Wide(BaseModel):
        def __init__(self):
            super().__init__()
            self.rows = torch.nn.ParameterList(list(torch.ones(9, 1)))

        def forward(self, inputs, labels, mode):
            return {'loss': sum(row.sum() for row in self.rows)}

    with pytest.raises(ValueError, match='differences: ') as caught:
        start(tmp_path / 'b', trained, Wide())
    assert str(caught.value).count(';') == 4
