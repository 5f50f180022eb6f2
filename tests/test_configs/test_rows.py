"""Every row of the tables differs from its neighbour in one thing.

Those of the demo and of custom sets are as compare.py makes them.
"""

import json
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS

import ltml_mm  # noqa: F401
from ltml_cli.result_parsers import DATA_SETS, RECIPES, ROWS
from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.experiments.rows import config_file, row_config

ROOT = Path(__file__).parents[2] / 'configs'
# A row, its neighbour, and the only entry in which they differ.
NEIGHBOURS = [
    ('erm', 'rs', 'train_dataloader.sampler'),
    *((row, 'erm', 'model.head.loss') for row in ('rw', 'focal', 'cb_focal')),
    *((row, 'erm', 'model.head.loss') for row in ('ldam', 'asl')),
    ('uniform_branch', 'erm', 'model.head.loss'),
    *((r, 'rs', 'model.head.loss') for r in ('db_focal', 'rebalanced_branch')),
    ('rebalanced_branch', 'uniform_branch', 'train_dataloader.sampler'),
    ('two_branches', 'consistency', 'model.loss_consistency'),
    ('consistency', 'ltml', 'model.loss_cls'),
]


@cache
def text_of(row, data):
    return json.dumps(row_config(row, data).to_dict())


def read(row, data):
    return json.loads(text_of(row, data))


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
        for key in ('model', 'tta_model', 'auto_scale_lr'):
            content.pop(key)
        return content

    expected = shared('ltml')
    assert expected['train_dataloader']['images'] == 64
    for row in ROWS:
        assert shared(row) == expected, row


def test_every_config_of_a_row_belongs_to_a_table():
    known = {
        config_file(row, data) for row in ROWS for data in ('voc', 'coco')
    }
    found = {
        path
        for folder in ('baselines', 'ablations')
        for path in (ROOT / folder).glob('*.py')
    }
    assert found == {path for path in known if path.parent != ROOT}
    assert all(path.is_file() for path in known)


@pytest.mark.parametrize('data', ['demo', 'custom'])
@pytest.mark.parametrize('row', ROWS)
def test_a_made_row_has_the_backbone_and_classes_of_its_set(row, data):
    ltml, model = read('ltml', data)['model'], read(row, data)['model']
    assert model['backbone'] == ltml['backbone']

    def numbers(node):
        for key, value in node.items():
            if key == 'num_classes':
                yield value
            elif isinstance(value, dict):
                yield from numbers(value)

    assert set(numbers(model)) == {ltml['num_classes']}


@pytest.mark.parametrize('row', RECIPES)
def test_a_recipe_is_a_row_of_custom_data_alone(row):
    recipe, ltml = read(row, 'custom'), read('ltml', 'custom')
    assert recipe['train_dataloader'].pop('sampler') != (
        ltml['train_dataloader'].pop('sampler')
    )
    for part in ('train_dataloader', 'test_dataloader', 'train_cfg'):
        assert recipe[part] == ltml[part], part
    for data in DATA_SETS:
        if data != 'custom':
            with pytest.raises(ValueError, match='--data custom alone'):
                row_config(row, data)


LOGITS = torch.randn(4, 20, generator=torch.Generator().manual_seed(0)) * 2
LABELS = torch.rand(4, 20, generator=torch.Generator().manual_seed(1)) > 0.8
COUNTS = np.array([775, 300, 120, 60, 34, 20, 15, 11, 8, 4, *range(2, 12)])
IMAGES = 1142


def value_of(row, data):
    config = read(row, data)['model']['head']['loss']
    if 'num_classes' in config:
        config['num_classes'] = len(COUNTS)
    loss = MODELS.build(config)
    if hasattr(loss, 'set_class_statistics'):
        loss.set_class_statistics(ClassStatistics(tuple(COUNTS), IMAGES))
    # As MMPretrain's multi-label head calls it.
    return loss(LOGITS, LABELS.float(), avg_factor=len(LOGITS)).item()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bce(z, y):
    return np.logaddexp(0, np.where(y, -z, z))


def focal(z, y):
    return np.where(y, 1 - sigmoid(z), sigmoid(z)) ** 2 * bce(z, y)


def reweighted(z, y):
    weight = IMAGES / COUNTS
    return bce(z, y) * weight / weight.mean()


def class_balanced_focal(z, y):
    weight = (1 - 0.9) / (1 - 0.9**COUNTS)
    image = (y * weight).sum(1, keepdims=True) / y.sum(1, keepdims=True)
    return image * focal(z, y)


def ldam(z, y):
    margin = 0.5 * COUNTS.min() ** 0.25 / COUNTS**0.25
    return bce(30 * (z - y * margin), y)


def asymmetric(z, y):
    # gamma 0 and 4, margin 0.05 (Ridnik et al., ICCV 2021).
    shifted = np.maximum(sigmoid(z) - 0.05, 0)
    negative = -(shifted**4) * np.log(1 - shifted)
    return np.where(y, bce(z, y), negative)


def distribution_balanced(z, y, mu, neg_scale):
    ratio = 1 / COUNTS / (y / COUNTS).sum(1, keepdims=True)
    weight = 0.1 + sigmoid(10 * (ratio - mu))
    z = z - 0.05 * np.log(IMAGES / COUNTS - 1)
    negative = focal(neg_scale * z, y) / neg_scale
    return 2 * weight * np.where(y, focal(z, y), negative)


def weighted(z, y):
    rho = COUNTS / IMAGES
    return np.where(y, np.exp(1 - rho), np.exp(rho)) * bce(z, y)


# The losses of the rows with their constants, before the mean over images and
# classes. DB-Focal has constants of its own for COCO-LT.
LOSSES = {
    **dict(erm=bce, rs=bce, rw=reweighted, focal=focal, ldam=ldam),
    **dict(cb_focal=class_balanced_focal, asl=asymmetric),
    'db_focal': partial(distribution_balanced, mu=0.3, neg_scale=5),
    **dict(uniform_branch=weighted, rebalanced_branch=weighted),
}
COCO_LOSSES = {'db_focal': partial(distribution_balanced, mu=0.2, neg_scale=2)}


@pytest.mark.parametrize('data', DATA_SETS)
@pytest.mark.parametrize('row', LOSSES)
def test_the_loss_of_a_row_has_its_constants(row, data):
    own = COCO_LOSSES if data == 'coco' else {}
    terms = {**LOSSES, **own}[row](LOGITS.double().numpy(), LABELS.numpy())
    assert value_of(row, data) == pytest.approx(terms.mean(), rel=1e-5)
