"""The table at the end of a run of the stock Runner."""

import json
import os

import pytest
import torch
from engine_runner import make_runner
from mmengine.model import BaseModel
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset


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


class Model(BaseModel):
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
        work_dir, Model(), hooks=['ClassReportHook'], train_dataloader=loader,
        train_cfg={'by_epoch': True, 'max_epochs': 2},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 1.0}},
        default_hooks={'checkpoint': None}, **options,
    )  # fmt: skip


def aps(path):
    report = json.loads(path.read_text())
    return [row['AP'] for row in report['classes']]


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


def test_nothing_to_show_without_validation(tmp_path):
    make(tmp_path).train()
    assert not list(tmp_path.glob('*.json'))
