"""Hooks that bring class counts to losses and biases, and report by class."""

import json
import os

import pytest
import torch
from engine_runner import Model, Numbers, make_runner
from mmengine.model import BaseModel
from mmpretrain.models import MultiLabelLinearClsHead
from mmpretrain.structures import DataSample
from torch import nn
from torch.utils.data import Dataset

from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.engine import ClassStatisticsHook
from ltml_mm.models import LogitCompensatedBCELoss

HOOKS = ['ClassStatisticsHook']


def train(work_dir, counts=(6, 2, 2), model=None, **options):
    model = model or Model()
    runner = make_runner(
        work_dir, model, Numbers(counts), hooks=HOOKS, **options
    )
    runner.train()
    return runner.model


def test_counts_arrive_and_travel_with_the_checkpoint(tmp_path):
    class Two(Model):
        def __init__(self):
            super().__init__()
            other = LogitCompensatedBCELoss(num_classes=3)
            self.branches = nn.ModuleDict({'r': other})

    # The loss weights by them, and raises where they are unknown.
    model = train(tmp_path, model=Two())
    for loss in (model.loss, model.branches['r']):
        assert loss.class_counts.tolist() == [6, 2, 2]
        assert loss.num_train_images.item() == 8
    state = read_checkpoint(tmp_path / 'epoch_1.pth')
    assert state['state_dict']['loss.class_counts'].tolist() == [6, 2, 2]


def test_without_the_hook_the_loss_says_what_to_add(tmp_path):
    with pytest.raises(ValueError, match='ClassStatisticsHook'):
        make_runner(tmp_path).train()


def test_after_load_from_the_data_wins(tmp_path):
    train(tmp_path / 'a')
    model = train(
        tmp_path / 'b', (5, 4, 3), load_from=str(tmp_path / 'a/epoch_1.pth')
    )
    assert model.loss.class_counts.tolist() == [5, 4, 3]


def resume(tmp_path, counts=(6, 2, 2), **kwargs):
    return train(
        tmp_path,
        counts,
        resume=True,
        train_cfg=dict(by_epoch=True, max_epochs=2),
        **kwargs,
    )


def test_resume_with_the_same_counts(tmp_path):
    # A scheduler restarts a job by --resume, the first time as well.
    for _ in range(2):
        assert resume(tmp_path).loss.class_counts.tolist() == [6, 2, 2]


@pytest.mark.parametrize('hooks', [HOOKS, [*HOOKS, 'ExactResumeHook']])
def test_resume_with_other_counts_is_refused(tmp_path, hooks):
    """Where ExactResumeHook has nothing to compare, it does not help."""
    train(tmp_path)
    dataset = Numbers((6, 3, 2))
    runner = make_runner(tmp_path, Model(), dataset, hooks=hooks, resume=True)
    with pytest.raises(ValueError, match=r'2 images of class 1.* has 3: '):
        runner.train()


def test_resume_with_another_number_of_images_is_refused(tmp_path):
    """The weights of the loss are of the shares n_k / N."""
    train(tmp_path)
    dataset = Numbers(num_train_images=9)
    runner = make_runner(tmp_path, Model(), dataset, hooks=HOOKS, resume=True)
    with pytest.raises(ValueError, match=r'trained on 8 images, .* has 9: '):
        runner.train()


def test_resume_with_exact_resume_hook_leaves_counts_to_it(tmp_path):
    model = Model()
    hooks = [*HOOKS, 'ExactResumeHook']
    make_runner(tmp_path, model, Numbers(), hooks=hooks).train()
    runner = make_runner(
        tmp_path, Model(), Numbers((6, 3, 2)), hooks=hooks, resume=True
    )
    runner.train()
    assert runner.model.loss.class_counts.tolist() == [6, 3, 2]


def test_a_dataset_without_counts_is_refused(tmp_path):
    runner = make_runner(
        tmp_path, dataset=Numbers(class_counts=None), hooks=HOOKS
    )
    with pytest.raises(ValueError, match='no "class_counts"'):
        runner.train()


def test_another_number_of_classes_is_refused(tmp_path):
    dataset = Numbers((6, 2), classes=('cat', 'cow'))
    runner = make_runner(tmp_path, dataset=dataset, hooks=HOOKS)
    with pytest.raises(ValueError, match=r'num_classes=3.* has 2 classes'):
        runner.train()


def test_a_model_that_takes_none_needs_none(tmp_path):
    make_runner(
        tmp_path,
        Model(loss=nn.BCEWithLogitsLoss()),
        Numbers(class_counts=None),
        hooks=HOOKS,
    ).train()


BOTH = ['ClassStatisticsHook', 'PriorBiasHook']


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


def train_prior(work_dir, **options):
    model = Headed()
    make_runner(
        work_dir, model, Numbers((6, 2, 0)), hooks=BOTH, **options
    ).train()
    return model


def test_the_first_step_sees_the_frequencies(tmp_path):
    probabilities = train_prior(tmp_path).seen[0].double().sigmoid()
    # (n + 1) of (N + 2) images.
    expected = torch.tensor([0.7, 0.3, 0.1], dtype=torch.float64)
    assert probabilities.numpy() == pytest.approx(expected.numpy(), rel=1e-6)


def test_a_checkpoint_keeps_its_biases(tmp_path):
    first = train_prior(tmp_path)
    last = first.fc.fc.bias
    path = str(tmp_path / 'epoch_1.pth')
    assert torch.equal(
        train_prior(tmp_path / 'b', load_from=path).seen[0], last
    )
    longer = dict(by_epoch=True, max_epochs=2)
    again = train_prior(tmp_path, resume=True, train_cfg=longer)
    assert torch.equal(again.seen[0], last)


def test_a_resume_without_a_checkpoint_is_a_start(tmp_path):
    assert train_prior(tmp_path, resume=True).seen[0][0] == pytest.approx(
        0.8473, 1e-4
    )


class Images(Dataset):
    metainfo = {  # noqa: RUF012
        'classes': ('cat', 'cow'),
        'class_counts': [120, 3],
        'num_train_images': 121,
    }

    def __len__(self):
        return 4

    def __getitem__(self, index):
        sample = DataSample().set_gt_label([index % 2])
        return {'inputs': torch.tensor([float(index)]), 'data_samples': sample}


class Scored(BaseModel):
    """Ranks by the index at first, the other way after a step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs, data_samples, mode):
        if mode == 'loss':
            return {'loss': self.weight.sum()}
        for x, sample in zip(inputs, data_samples, strict=True):
            score = (x * self.weight).detach().repeat(2)
            sample.set_pred_score(score)
        return data_samples


def make(work_dir, *splits):
    loader = {
        'dataset': Images(),
        'batch_size': 2,
        'num_workers': 0,
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        'collate_fn': {'type': 'pseudo_collate'},
    }
    options = {}
    for split in splits:
        options[f'{split}_dataloader'] = loader
        options[f'{split}_cfg'] = {}
        options[f'{split}_evaluator'] = {'type': 'GroupedAveragePrecision'}
    return make_runner(
        work_dir, Scored(), hooks=['ClassReportHook'], train_dataloader=loader,
        train_cfg={'by_epoch': True, 'max_epochs': 2},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 1.0}},
        default_hooks={'checkpoint': None}, **options,
    )  # fmt: skip


def aps(path):
    return [row['AP'] for row in json.loads(path.read_text())['classes']]


def test_last_validation_and_test_are_saved(tmp_path):
    work = tmp_path / 'work'
    runner = make(work, 'val', 'test')
    runner.test()
    assert os.listdir(work).count('val_class_report.json') == 0
    # Scores 0 1 2 3 and labels 0 1 0 1: precisions at the hits.
    ascending = [50 * (1 / 2 + 2 / 4), 50 * (1 / 1 + 2 / 3)]
    assert aps(work / 'test_class_report.json') == pytest.approx(ascending)
    runner.train()
    # Four steps of lr 1 make the weight negative: the ranking is reversed.
    descending = [50 * (1 / 1 + 2 / 3), 50 * (1 / 2 + 2 / 4)]
    assert aps(work / 'val_class_report.json') == pytest.approx(descending)
    assert aps(work / 'test_class_report.json') == pytest.approx(ascending)
    assert not list(work.glob('*.tmp'))
    log = next(work.glob('*/*.log')).read_text()
    assert '| total (2 classes)' in log
    assert '| cow ' in log


def test_counts_are_missed_ahead_of_the_first_step(tmp_path):
    runner = make(tmp_path, 'val')
    runner.register_hook(ClassStatisticsHook())
    runner.val_loop.evaluator.dataset_meta = {'classes': ('cat', 'cow')}
    with pytest.raises(ValueError, match='has no "class_counts"'):
        runner.train()
    assert runner.iter == 0


def test_nothing_to_show_without_validation(tmp_path):
    make(tmp_path).train()
    assert not list(tmp_path.glob('*.json'))
