"""VOC-LT and COCO-LT from trees of annotations made here."""

import hashlib
import json
import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from published_trees import (
    load,
    out_of,
    some_labels,
    split_file,
    write_coco,
    write_voc,
)

from ltml_mm.datasets import COCOLTDataset, VOCLTDataset
from ltml_mm.datasets.converters.convert import convert_published
from ltml_mm.datasets.converters.records import OutputOptions
from ltml_mm.datasets.published import COCO_CLASSES, VOC_CLASSES
from ltml_mm.datasets.splits import VOC_LT

REPO = Path(__file__).parents[2]
DATA = REPO.parent / 'shared' / 'data'
TOOLS = REPO / 'tools' / 'dataset_converters'


@pytest.fixture
def devkit(tmp_path):
    root = tmp_path / 'data' / 'VOCdevkit'
    rows = some_labels(120, 20)
    train = {f'2008_{i:06d}': row for i, row in enumerate(rows)}
    test = {f'{i:06d}': row for i, row in enumerate(rows[:30], 1)}
    write_voc(root, 'VOC2012', 'trainval', train)
    write_voc(root, 'VOC2007', 'test', test)
    return root


@pytest.mark.filterwarnings('ignore:pareto_split')
def test_voc_lt_end_to_end(devkit, tmp_path):
    options = out_of(tmp_path)
    summary = convert_published('voc', str(devkit), options)
    assert 'differ from the published list of 1142' in summary
    # The folders lie as the config expects, but for their parent.
    assert summary.endswith(
        f'ltml_voc.py --cfg-options data_root={options.out}'
    )
    train, test, split = (
        load(tmp_path / 'data' / 'voc_lt' / f'{name}.json')
        for name in ('train', 'test', 'split')
    )
    labels = {
        f'VOC2012/JPEGImages/2008_{i:06d}.jpg': row
        for i, row in enumerate(some_labels(120, 20))
    }
    for entry in train['data_list']:
        # Difficult objects are in, parts of objects are not.
        assert entry['gt_label'] == labels[entry['img_path']]
    counts = np.zeros(20, int)
    for entry in train['data_list']:
        counts[entry['gt_label']] += 1
    assert train['metainfo']['class_counts'] == counts.tolist()
    assert test['metainfo'] == train['metainfo']
    assert train['metainfo']['classes'] == list(VOC_CLASSES)
    assert train['metainfo']['num_train_images'] == len(train['data_list'])
    assert len(test['data_list']) == 30
    assert test['data_list'][0] == {
        'img_path': 'VOC2007/JPEGImages/000001.jpg',
        'gt_label': some_labels(1, 20)[0],
    }
    ids = sorted(Path(e['img_path']).stem for e in train['data_list'])
    digest = hashlib.sha256('\n'.join(ids).encode()).hexdigest()
    assert split['train_ids_sha256'] == digest
    assert split['published_sha256'] == VOC_LT.sha256
    assert split['equals_published'] is False
    assert split['recipe']['max_count'] == 800
    assert split['class_counts']['person'] == counts[14]
    grouped = [name for group in split['groups'].values() for name in group]
    assert sorted(grouped) == sorted(VOC_CLASSES)

    # The dataset finds the images where the docs put them.
    dataset = VOCLTDataset('train.json', str(tmp_path / 'data' / 'voc_lt'))
    assert len(dataset) == len(train['data_list'])
    assert all(Path(info['img_path']).is_file() for info in dataset)


def test_voc_lt_takes_a_split_file(devkit, tmp_path):
    ids = ['2008_000007', '2008_000003']
    convert_published(
        'voc', str(devkit), out_of(tmp_path), split_file(tmp_path, ids)
    )
    train = load(tmp_path / 'data' / 'voc_lt' / 'train.json')
    stems = [Path(e['img_path']).stem for e in train['data_list']]
    assert stems == sorted(ids)
    split = load(tmp_path / 'data' / 'voc_lt' / 'split.json')
    assert split['recipe'] == {'split_file': 'img_id.pkl'}


@pytest.mark.parametrize(
    ('ids', 'words'),
    [
        (
            ['2008_000001', '2008_000001'],
            r"pkl:2: '2008_000001', first on",
        ),
        (
            ['2008_000001', '', '2008_000002'],
            r'empty, bad or .*: 1\n.*pkl:2',
        ),
        (['2009_000001'], r"or unknown ids: 1\n.*pkl:1: '2009_000001'"),
    ],
)
def test_bad_split_files_name_the_line(devkit, tmp_path, ids, words):
    options = out_of(tmp_path)
    with pytest.raises(ValueError, match=words):
        convert_published(
            'voc', str(devkit), options, split_file(tmp_path, ids)
        )
    assert not Path(options.out).exists()


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_as_split_file_is_refused(devkit, tmp_path, protocol):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / 'exploded',))

    path = tmp_path / 'img_id.pkl'
    path.write_bytes(pickle.dumps(Bomb(), protocol))
    with pytest.raises(ValueError, match=r'img_id\.pkl'):
        convert_published('voc', str(devkit), out_of(tmp_path), str(path))
    assert not (tmp_path / 'exploded').exists()


@pytest.mark.filterwarnings('ignore:pareto_split')
def test_all_broken_files_are_listed(devkit, tmp_path):
    xml = devkit / 'VOC2012' / 'Annotations'
    for i in range(12):
        (xml / f'2008_{i:06d}.xml').write_text('<annotation>\n<object>')
    (xml / '2008_000050.xml').unlink()
    with pytest.raises(ValueError, match='annotations: 12') as caught:
        convert_published('voc', str(devkit), out_of(tmp_path))
    lines = str(caught.value).splitlines()
    assert lines[0] == 'broken annotations: 12, the first 10'
    assert '2008_000000.xml: not an annotation of VOC: ' in lines[1]
    assert lines[11] == 'missing annotations: 1'
    assert '2008_000050.xml' in lines[12]
    assert not (tmp_path / 'data' / 'voc_lt').exists()


@pytest.mark.filterwarnings('ignore:pareto_split')
def test_unknown_class_names_the_file(devkit, tmp_path):
    path = devkit / 'VOC2007' / 'Annotations' / '000003.xml'
    path.write_text(path.read_text().replace('</name>', 'x</name>', 1))
    with pytest.raises(ValueError, match=r"000003\.xml: '\w+x'"):
        convert_published('voc', str(devkit), out_of(tmp_path))


@pytest.mark.filterwarnings('ignore:pareto_split')
def test_missing_image_is_named(devkit, tmp_path):
    (devkit / 'VOC2007' / 'JPEGImages' / '000009.jpg').unlink()
    with pytest.raises(ValueError, match=r'missing images: 1\n.*000009'):
        convert_published('voc', str(devkit), out_of(tmp_path))


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


def run_tool(monkeypatch, name, *args):
    monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
    try:
        runpy.run_path(str(TOOLS / name), run_name='__main__')
    except SystemExit as end:
        return end.code
    return 0


def test_the_tools_report_by_exit_status(
    devkit, tmp_path, monkeypatch, capsys
):
    out = tmp_path / 'data' / 'voc_lt'
    arguments = ('voc_lt.py', devkit, '--out', out)
    assert run_tool(monkeypatch, *arguments) == 0
    captured = capsys.readouterr()
    assert '30 to test' in captured.out
    assert 'WARNING: pareto_split' in captured.err
    before = (out / 'train.json').read_bytes()
    assert run_tool(monkeypatch, *arguments) == 1
    assert 'exists; pass --force' in capsys.readouterr().err
    assert run_tool(monkeypatch, *arguments, '--force') == 0
    assert (out / 'train.json').read_bytes() == before
    # The images of these trees are empty files.
    assert run_tool(monkeypatch, *arguments, '--force', '--check-images') == 1
    assert 'images that do not decode' in capsys.readouterr().err
    assert (out / 'train.json').read_bytes() == before
    assert run_tool(monkeypatch, 'voc_lt.py') == 2


@pytest.mark.filterwarnings('ignore')
def test_the_tool_of_coco(coco, tmp_path, monkeypatch, capsys):
    arguments = ('coco_lt.py', coco[0], '--out', tmp_path / 'out')
    assert run_tool(monkeypatch, *arguments) == 0
    assert '3 to test' in capsys.readouterr().out


@pytest.mark.skipif(not DATA.is_dir(), reason=f'no published lists at {DATA}')
def test_voc_lt_of_full_size_is_the_published_one(tmp_path):
    def rows(name):
        lines = (DATA / name).read_text().splitlines()
        fields = [line.split() for line in lines]
        return {f[0]: [int(k) for k in f[1:]] for f in fields}

    root = tmp_path / 'VOCdevkit'
    write_voc(root, 'VOC2012', 'trainval', rows('voc2012_trainval_labels.txt'))
    write_voc(root, 'VOC2007', 'test', rows('voc_lt_test.txt'))
    options = OutputOptions(str(tmp_path / 'voc_lt'))
    assert 'equal the published list' in convert_published(
        'voc', str(root), options
    )
    train = load(tmp_path / 'voc_lt' / 'train.json')
    found = {
        Path(e['img_path']).stem: e['gt_label'] for e in train['data_list']
    }
    assert found == rows('voc_lt_train.txt')
    groups = load(DATA / 'voc_lt_groups.json')
    assert train['metainfo']['class_counts'] == groups['class_counts']
    test = load(tmp_path / 'voc_lt' / 'test.json')
    assert len(test['data_list']) == 4952
    assert load(tmp_path / 'voc_lt' / 'split.json')['equals_published']
