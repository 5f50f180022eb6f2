"""Every row of the tables differs from its neighbour in one thing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

import ltml_mm  # noqa: F401
from ltml_mm.comparison.rows import DATA_SETS, ROWS

ROOT = Path(__file__).parents[2] / 'configs'
# A row, its neighbour, and the only entry in which they differ.
NEIGHBOURS = [
    ('erm', 'rs', 'train_dataloader.sampler'),
    ('rw', 'erm', 'model.head.loss'),
    ('focal', 'erm', 'model.head.loss'),
    ('cb_focal', 'erm', 'model.head.loss'),
    ('ldam', 'erm', 'model.head.loss'),
    ('asl', 'erm', 'model.head.loss'),
    ('db_focal', 'rs', 'model.head.loss'),
    ('uniform_branch', 'erm', 'model.head.loss'),
    ('rebalanced_branch', 'rs', 'model.head.loss'),
    ('rebalanced_branch', 'uniform_branch', 'train_dataloader.sampler'),
    ('two_branches', 'consistency', 'model.loss_consistency'),
    ('consistency', 'ltml', 'model.loss_cls'),
]


def read(row, data):
    cfg = Config.fromfile(ROOT / ROWS[row].format(data=data))
    return json.loads(json.dumps(cfg.to_dict()))


def pop(content, path):
    *parents, leaf = path.split('.')
    for parent in parents:
        content = content[parent]
    return content.pop(leaf, None)


@pytest.mark.parametrize('data', DATA_SETS)
@pytest.mark.parametrize(('row', 'neighbour', 'path'), NEIGHBOURS)
def test_a_row_differs_from_its_neighbour_in_one_entry(
    row, neighbour, path, data
):
    first, second = read(row, data), read(neighbour, data)
    assert pop(first, path) != pop(second, path)
    assert first == second


@pytest.mark.parametrize('data', DATA_SETS)
def test_all_rows_share_data_schedule_and_images_per_step(data):
    def shared(row):
        content = read(row, data)
        loader = content['train_dataloader']
        loader['images'] = loader.pop('batch_size') * len(
            loader.pop('sampler')['streams']
        )
        # What one branch does not have.
        for key in ('val_evaluator', 'test_evaluator'):
            content[key].pop('branches')
        for key in ('model', 'tta_model', 'auto_scale_lr'):
            content.pop(key)
        return content

    expected = shared('ltml')
    assert expected['train_dataloader']['images'] == 64
    for row in ROWS:
        assert shared(row) == expected, row


def test_every_config_of_a_row_belongs_to_a_table():
    known = {
        (ROOT / path.format(data=data))
        for path in ROWS.values()
        for data in DATA_SETS
    }
    found = {
        path
        for folder in ('baselines', 'ablations')
        for path in (ROOT / folder).glob('*.py')
    }
    assert found <= known
    assert all(path.is_file() for path in known)


LOGITS = torch.randn(4, 20, generator=torch.Generator().manual_seed(0)) * 2
LABELS = torch.rand(4, 20, generator=torch.Generator().manual_seed(1)) > 0.8


def value_of(row):
    loss = MODELS.build(read(row, 'voc')['model']['head']['loss'])
    # As MMPretrain's multi-label head calls it.
    return loss(LOGITS, LABELS.float(), avg_factor=len(LOGITS)).item()


def expected_terms():
    z, y = LOGITS.double().numpy(), LABELS.numpy()
    p = 1 / (1 + np.exp(-z))
    return p, y, -np.log(np.where(y, p, 1 - p))


def test_plain_bce_and_focal_are_means_over_images_and_classes():
    p, y, bce = expected_terms()
    assert value_of('erm') == pytest.approx(bce.mean(), rel=1e-5)
    focal = np.where(y, 1 - p, p) ** 2 * bce
    assert value_of('focal') == pytest.approx(focal.mean(), rel=1e-5)


def test_asymmetric_loss_is_a_mean_over_images_and_classes():
    p, y, _ = expected_terms()
    # gamma 0 and 4, margin 0.05 (Ridnik et al., ICCV 2021).
    shifted = np.maximum(p - 0.05, 0)
    terms = np.where(y, -np.log(p), -(shifted**4) * np.log(1 - shifted))
    assert value_of('asl') == pytest.approx(terms.mean(), rel=1e-4)
