"""VOC-LT and COCO-LT from trees of annotations made here."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from own_data import load, run_tool, some_labels, write_coco, write_voc

from ltml_mm.datasets import COCOLTDataset, VOCLTDataset
from ltml_mm.datasets.converters.convert import convert_published
from ltml_mm.datasets.converters.records import OutputOptions
from ltml_mm.datasets.published import COCO_CLASSES, VOC_CLASSES
from ltml_mm.datasets.splits import VOC_LT

DATA = Path(__file__).parents[3] / 'shared' / 'data'
pytestmark = pytest.mark.filterwarnings('ignore:ParetoRecipe.split')


def convert(name, root, out, split_file=None):
    options = OutputOptions(str(out))
    return convert_published(name, str(root), options, split_file)


@pytest.fixture
def devkit(tmp_path):
    root = tmp_path / 'VOCdevkit'
    rows = some_labels(120, 20)
    train = {f'2008_{i:06d}': row for i, row in enumerate(rows)}
    test = {f'{i:06d}': row for i, row in enumerate(rows[:30], 1)}
    write_voc(root, 'VOC2012', 'trainval', train)
    write_voc(root, 'VOC2007', 'test', test)
    return root


def test_voc_lt_end_to_end(devkit, out):
    summary = convert('voc', devkit, out)
    assert 'differ from the published list of 1142' in summary
    assert summary.endswith(
        f'ltml train ltml_voc --data {out} --cfg-options '
        'data_prefix=../VOCdevkit'
    )
    train, test, split = (
        load(out / f'{name}.json') for name in ('train', 'test', 'split')
    )
    labels = {
        f'VOC2012/JPEGImages/2008_{i:06d}.jpg': row
        for i, row in enumerate(some_labels(120, 20))
    }
    counts = np.zeros(20, int)
    for entry in train['data_list']:
        # Difficult objects are in, parts of objects are not.
        assert entry['gt_label'] == labels[entry['img_path']]
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
    dataset = VOCLTDataset('train.json', str(out))
    assert len(dataset) == len(train['data_list'])
    assert all(Path(info['img_path']).is_file() for info in dataset)


def test_an_unknown_id_is_named_with_its_line(devkit, out):
    (devkit / 'img_id.pkl').write_text('2008_000001\n2009_000001\n')
    words = r"unknown names: 1\n.*pkl:2: '2009_000001'"
    with pytest.raises(ValueError, match=words):
        convert('voc', devkit, out, str(devkit / 'img_id.pkl'))
    assert not out.exists()


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_as_split_file_is_refused(devkit, out, protocol):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (devkit / 'exploded',))

    path = devkit / 'img_id.pkl'
    path.write_bytes(pickle.dumps(Bomb(), protocol))
    with pytest.raises(ValueError, match=r'img_id\.pkl'):
        convert('voc', devkit, out, str(path))
    assert not (devkit / 'exploded').exists()


@pytest.mark.parametrize(
    ('path', 'words'),
    [
        ('JPEGImages/000009.jpg', r'missing images .*: 1\n.*9\.xml: .*000009'),
        ('Annotations/000009.xml', r'missing or .*: 1\n.*9\.xml: not an anno'),
    ],
)
def test_missing_files_are_named(devkit, out, path, words):
    (devkit / 'VOC2007' / path).unlink()
    with pytest.raises(ValueError, match=words):
        convert('voc', devkit, out)
    assert not out.exists()


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / 'coco'
    labels = write_coco(root, 'train2017', some_labels(150, 80))
    write_coco(root, 'val2017', [[0, 5], [], [79]], start=100000)
    return root, labels


def test_coco_lt_end_to_end(coco, out):
    root, labels = coco
    summary = convert('coco', root, out)
    assert 'differ from the published list of 1909' in summary
    train, test, split = (
        load(out / f'{name}.json') for name in ('train', 'test', 'split')
    )
    for entry in train['data_list']:
        assert entry['gt_label'] == labels[entry['img_path']]
    assert train['metainfo']['classes'] == list(COCO_CLASSES)
    assert [e['gt_label'] for e in test['data_list']] == [[0, 5], [], [79]]
    assert split['recipe']['max_count'] == 1200
    dataset = COCOLTDataset('test.json', str(out), test_mode=True)
    assert all(Path(info['img_path']).is_file() for info in dataset)


def test_a_split_file_takes_ids_without_padding(coco, out):
    root, labels = coco
    paths = list(labels)[4:6]
    ids = [str(int(Path(path).stem)) for path in paths]
    (root / 'img_id.pkl').write_text('\n'.join(ids[::-1]))
    with pytest.warns(UserWarning, match='without an image in train'):
        convert('coco', root, out, str(root / 'img_id.pkl'))
    train = load(out / 'train.json')
    assert [e['img_path'] for e in train['data_list']] == paths
    assert load(out / 'split.json')['recipe'] == {'split_file': 'img_id.pkl'}


def test_other_categories_are_refused(coco, out):
    path = coco[0] / 'annotations' / 'instances_val2017.json'
    path.write_text(path.read_text().replace('person', 'toothpick'))
    with pytest.raises(ValueError, match=r'val2017\.json: images.*toothpick'):
        convert('coco', coco[0], out)


def test_the_tools_report_by_exit_status(devkit, out, monkeypatch, capsys):
    arguments = ('voc_lt.py', devkit, '--out', out)
    assert run_tool(monkeypatch, *arguments) == 0
    captured = capsys.readouterr()
    assert '30 to test' in captured.out
    assert 'WARNING: ParetoRecipe.split' in captured.err
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


def test_the_tool_of_coco(coco, out, monkeypatch, capsys):
    assert run_tool(monkeypatch, 'coco_lt.py', coco[0], '--out', out) == 0
    assert '3 to test' in capsys.readouterr().out


@pytest.mark.skipif(not DATA.is_dir(), reason=f'no published lists at {DATA}')
def test_voc_lt_of_full_size_is_the_published_one(tmp_path, out):
    def rows(name):
        lines = (DATA / name).read_text().splitlines()
        fields = [line.split() for line in lines]
        return {f[0]: [int(k) for k in f[1:]] for f in fields}

    root = tmp_path / 'VOCdevkit'
    write_voc(root, 'VOC2012', 'trainval', rows('voc2012_trainval_labels.txt'))
    write_voc(root, 'VOC2007', 'test', rows('voc_lt_test.txt'))
    assert 'equal the published list' in convert('voc', root, out)
    train = load(out / 'train.json')
    found = {
        Path(e['img_path']).stem: e['gt_label'] for e in train['data_list']
    }
    assert found == rows('voc_lt_train.txt')
    groups = load(DATA / 'voc_lt_groups.json')
    assert train['metainfo']['class_counts'] == groups['class_counts']
    assert len(load(out / 'test.json')['data_list']) == 4952
    assert load(out / 'split.json')['equals_published']
