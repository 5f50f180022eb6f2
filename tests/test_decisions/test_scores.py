"""Scores of a set, by every kind of network."""

import json

import numpy as np
import pytest
import torch
from inference_case import CLASSES, GROUPS, PLAIN, TWO_BRANCH, save, save_case

from ltml_mm.apis import MultiLabelInferencer, merge
from ltml_mm.apis.model import load_network
from ltml_mm.decisions.scores import build_loader, collect_scores
from ltml_mm.decisions.thresholds import weights_digest

LABELS = [[0, 2], [1], [], [3, 4, 0]]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    paths = [save(folder / f'{i}.png', i) for i in range(4)]
    images = [
        dict(img_path=path.name, gt_label=label)
        for path, label in zip(paths, LABELS, strict=True)
    ]
    content = dict(metainfo=dict(classes=CLASSES), data_list=images)
    (folder / 'test.json').write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize('kind', ['two', 'stock', 'merged'])
def test_scores_are_those_of_a_prediction(data, tmp_path, kind):
    case = PLAIN if kind == 'stock' else TWO_BRANCH
    config, checkpoint, model = save_case(tmp_path, case)
    options = {'data_root': str(data)}
    if kind == 'merged':
        merge.main(
            [
                *(str(config), str(checkpoint), str(tmp_path / 'm.pth')),
                *('--cfg-options', f'data_root={data}'),
            ]
        )
        config, checkpoint = tmp_path / 'm.py', tmp_path / 'm.pth'
        options = None
    network = load_network(config, checkpoint, 'cpu', options)
    assert network.names == CLASSES
    assert [info['group'] for info in network.class_info] == GROUPS
    if kind != 'merged':
        assert network.digest == weights_digest(model.state_dict())
    settings = dict(network.cfg.test_dataloader, batch_size=3, num_workers=0)
    found = collect_scores(network.model, build_loader(network.cfg, settings))
    paths = [str(data / f'{i}.png') for i in range(4)]
    assert found.paths == paths
    expected = np.zeros((4, 5), bool)
    for row, label in zip(expected, LABELS, strict=True):
        row[label] = True
    np.testing.assert_array_equal(found.targets, expected)
    inferencer = MultiLabelInferencer(config, checkpoint, 'cpu', options)
    scores = [[*r['scores'].values()] for r in inferencer(paths)]
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    assert set(found.branches) == (
        {'uniform', 'rebalanced'} if kind == 'two' else set()
    )


def test_an_empty_set_is_an_error():
    with pytest.raises(ValueError, match='no image'):
        collect_scores(torch.nn.Module(), [])
