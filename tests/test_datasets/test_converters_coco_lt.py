"""COCO-LT from annotations made here."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from published_trees import load, out_of, some_labels, split_file, write_coco

from ltml_mm.datasets import COCOLTDataset
from ltml_mm.datasets.converters import convert_published
from ltml_mm.datasets.published import COCO_CLASSES

REPO = Path(__file__).parents[2]
TOOL = REPO / 'tools' / 'dataset_converters' / 'coco_lt.py'


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / 'data' / 'coco'
    ids = write_coco(root, 'train2017', some_labels(150, 80))
    write_coco(root, 'val2017', [[0, 5], [], [79]], start=100000)
    return root, ids


@pytest.mark.filterwarnings('ignore:pareto_split')
def test_coco_lt_end_to_end(coco, tmp_path):
    root, ids = coco
    options = out_of(tmp_path, 'coco_lt')
    summary = convert_published('coco', str(root), options)
    assert 'differ from the published list of 1909' in summary
    train = load(Path(options.out) / 'train.json')
    by_path = {
        f'train2017/{int(i):012d}.jpg': row
        for i, row in zip(ids, some_labels(150, 80), strict=True)
    }
    for entry in train['data_list']:
        assert entry['gt_label'] == by_path[entry['img_path']]
    assert train['metainfo']['classes'] == list(COCO_CLASSES)
    test = load(Path(options.out) / 'test.json')
    assert [e['gt_label'] for e in test['data_list']] == [[0, 5], [], [79]]
    split = load(Path(options.out) / 'split.json')
    assert split['recipe']['max_count'] == 1200
    dataset = COCOLTDataset('test.json', options.out, test_mode=True)
    assert all(Path(info['img_path']).is_file() for info in dataset)


def test_coco_lt_takes_ids_without_padding(coco, tmp_path):
    root, ids = coco
    options = out_of(tmp_path, 'coco_lt')
    with pytest.warns(UserWarning, match='without a training image'):
        convert_published(
            'coco', str(root), options, split_file(tmp_path, ids[4:6])
        )
    train = load(Path(options.out) / 'train.json')
    stems = [int(Path(e['img_path']).stem) for e in train['data_list']]
    assert stems == [int(i) for i in ids[4:6]]


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'id': 7, 'file_name': 'x.jpg'}, 'the id 7 repeats'),
        ({'id': 8.0, 'file_name': 'x.jpg'}, '"id" is missing or neither'),
        ({'id': 8}, '"file_name" is missing'),
        (7, '"id" is missing'),
        ({'id': 8, 'file_name': '../../0009.jpg'}, 'lies outside'),
    ],
)
def test_bad_coco_images_are_named(coco, tmp_path, change, words):
    root, _ = coco
    path = root / 'annotations' / 'instances_train2017.json'
    value = load(path)
    value['images'].append(change)
    path.write_text(json.dumps(value))
    words = rf'instances_train2017\.json: images\[150\]: .*{words}'
    with pytest.raises(ValueError, match=words):
        convert_published('coco', str(root), out_of(tmp_path, 'coco_lt'))


@pytest.mark.parametrize('field', ['image_id', 'category_id'])
@pytest.mark.parametrize(
    ('value', 'words'),
    [
        (12345, ' 12345'),
        ('7', r" is the text '7', its list has the number 7"),
        (7.0, r' is the number 7\.0, its list has the number 7'),
        (None, ' None'),
        ([7], r' \[7\]'),
    ],
)
def test_unknown_coco_ids_are_named(coco, tmp_path, field, value, words):
    root, _ = coco
    path = root / 'annotations' / 'instances_train2017.json'
    content = load(path)
    content['annotations'][1][field] = value
    path.write_text(json.dumps(content))
    words = rf'train2017\.json: annotations\[1\]: {field}{words}$'
    with pytest.raises(ValueError, match=words):
        convert_published('coco', str(root), out_of(tmp_path, 'coco_lt'))


def test_other_categories_are_refused(coco, tmp_path):
    root, _ = coco
    path = root / 'annotations' / 'instances_val2017.json'
    value = load(path)
    shown = value['annotations'][0]['category_id']
    for category in value['categories']:
        if category['id'] == shown:
            category['name'] = 'toothpick'
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=r'val2017\.json: images.*toothpick'):
        convert_published('coco', str(root), out_of(tmp_path, 'coco_lt'))


@pytest.mark.filterwarnings('ignore')
def test_the_tool(coco, tmp_path, monkeypatch, capsys):
    args = ['coco_lt.py', str(coco[0]), '--out', str(tmp_path / 'out')]
    monkeypatch.setattr(sys, 'argv', args)
    runpy.run_path(str(TOOL), run_name='__main__')
    assert '3 to test' in capsys.readouterr().out
