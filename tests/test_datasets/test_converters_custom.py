"""One's own data: five formats that say the same, and the options."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from own_data import (
    CASES,
    CLASSES,
    convert,
    draw,
    load,
    make_csv,
    make_images,
    make_mmpretrain,
    many,
)
from PIL import Image

from ltml_mm.apis.inferencer import find_images
from ltml_mm.datasets import LongTailMultiLabelDataset
from ltml_mm.datasets.images import EXTENSIONS
from ltml_mm.datasets.splits import ParetoRecipe


@pytest.fixture
def root(tmp_path):
    return make_images(tmp_path / 'src')


@pytest.mark.parametrize(('form', 'make'), CASES)
def test_every_format_says_the_same(root, tmp_path, form, make):
    source, expected = make(root)
    summary = convert(source, tmp_path / 'out', form)
    value = load(tmp_path / 'out' / 'train.json')
    assert value['metainfo'] == {
        'dataset_type': 'multi-label',
        'task_name': 'out',
        'classes': list(CLASSES),
        'class_counts': [3, 3, 2],
        'num_train_images': 4,
    }
    found = {e['img_path']: tuple(e['gt_label']) for e in value['data_list']}
    assert found == expected
    assert list(found) == list(expected)
    assert not (tmp_path / 'out' / 'test.json').exists()
    # The command in the summary tells the dataset where the images are.
    prefix = summary.rsplit('data_prefix=', 1)[1]
    dataset = LongTailMultiLabelDataset(
        'train.json', data_root=str(tmp_path / 'out'), data_prefix=prefix
    )
    assert all(Path(info['img_path']).is_file() for info in dataset)


def test_images_beside_the_output_need_no_prefix(root):
    source, _ = make_csv(root)
    assert 'data_prefix' not in convert(source, root)


def test_twice_gives_identical_bytes(root, tmp_path):
    source, _ = make_csv(root)
    options = {'test': 0.5, 'seed': 3}
    convert(source, tmp_path / '1' / 'out', **options)
    convert(source, tmp_path / '2' / 'out', **options)
    for name in ('train.json', 'test.json', 'split.json'):
        first = (tmp_path / '1' / 'out' / name).read_bytes()
        assert first == (tmp_path / '2' / 'out' / name).read_bytes()
        assert str(tmp_path).encode() not in first


def counts_of(value):
    labels = [k for e in value['data_list'] for k in e['gt_label']]
    return np.bincount(labels, minlength=3)


def test_holdout_and_long_tail(root, tmp_path):
    source = many(root)
    convert(source, tmp_path / 'all')
    recipe = ParetoRecipe(100, min_count=5, shape=3.0)
    convert(source, tmp_path / 'out', test=0.25, recipe=recipe)
    whole, train, test = (
        load(tmp_path / name)
        for name in ('all/train.json', 'out/train.json', 'out/test.json')
    )
    assert len(test['data_list']) == pytest.approx(100, abs=2)
    expected = counts_of(whole) / 4
    assert counts_of(test) == pytest.approx(expected, abs=2)
    assert test['metainfo'] == train['metainfo']
    counts = counts_of(train).tolist()
    assert train['metainfo']['class_counts'] == counts
    # The last class drawn meets its target; it co-occurs least.
    assert counts[2] == ParetoRecipe(100, 5, 3.0).targets(3)[2]
    paths = [e['img_path'] for e in train['data_list'] + test['data_list']]
    assert len(set(paths)) == len(paths)
    split = load(tmp_path / 'out' / 'split.json')
    assert split['holdout']['fraction'] == 0.25
    assert split['recipe']['shape'] == 3.0


def test_own_test_set(root, tmp_path):
    source, _ = make_csv(root)
    draw(root / 'e.jpg')
    (root / 't.csv').write_text('path,labels\ne.jpg,emu')
    convert(source, tmp_path / 'out', test=str(root / 't.csv'))
    test = load(tmp_path / 'out' / 'test.json')
    # Labels and counts are those of the training set.
    assert test['data_list'] == [{'img_path': 'e.jpg', 'gt_label': [2]}]
    assert test['metainfo']['class_counts'] == [3, 3, 2]
    for row, words in (
        ('a.jpg,cat', r'test images that are training images: 1\n.*t\.csv:2'),
        ('e.jpg,gnu', r"unknown classes: 1\n.*t\.csv:2: 'gnu'"),
    ):
        (root / 't.csv').write_text(f'path,labels\n{row}')
        with pytest.raises(ValueError, match=words):
            convert(source, tmp_path / 'no', test=str(root / 't.csv'))


def test_classes_file_fixes_order_and_names(root, tmp_path):
    source, _ = make_csv(root)
    listing = root / 'classes.txt'
    listing.write_text('emu\ngnu\ncat\ndog\n')
    with pytest.warns(UserWarning, match='without a training image: gnu'):
        convert(source, tmp_path / 'out', classes=str(listing))
    train = load(tmp_path / 'out' / 'train.json')
    assert train['metainfo']['class_counts'] == [2, 0, 3, 3]
    assert train['data_list'][2]['gt_label'] == [0, 3]
    listing.write_text('cat\ndog')
    with pytest.raises(ValueError, match=r"l\.csv:4: 'emu'"):
        convert(source, tmp_path / 'no', classes=str(listing))
    listing.write_text('cat\ndog\nemu\ncat\n\nx')
    words = r"repeat: 1\n  .*txt:4: 'cat'\nbad .*: 1\n  .*txt:5: '' is empty"
    with pytest.raises(ValueError, match=words):
        convert(source, tmp_path / 'no', classes=str(listing))


def test_columns_of_one_class(root, tmp_path):
    (root / 'x.csv').write_text('path,cat\na.jpg,1\nb.jpg,0')
    convert(root / 'x.csv', tmp_path / 'out')
    train = load(tmp_path / 'out' / 'train.json')
    assert train['metainfo']['classes'] == ['cat']
    assert [e['gt_label'] for e in train['data_list']] == [[0], []]


def test_classes_as_categories_load_in_the_dataset_and_here(root, tmp_path):
    source, expected = make_mmpretrain(root)
    value = load(source)
    names = value['metainfo'].pop('classes')
    value['metainfo']['categories'] = [
        {'id': index, 'category_name': name}
        for index, name in reversed(list(enumerate(names)))
    ]
    source.write_text(json.dumps(value))
    dataset = LongTailMultiLabelDataset(str(source))
    convert(source, tmp_path / 'out', 'mmpretrain')
    train = load(tmp_path / 'out' / 'train.json')
    assert train['metainfo']['classes'] == list(dataset.CLASSES)
    found = [tuple(entry['gt_label']) for entry in train['data_list']]
    assert found == list(expected.values())
    assert [sorted(i['gt_label']) for i in dataset] == list(map(list, found))


def test_an_image_file_is_the_same_in_folders_training_and_prediction(
    tmp_path,
):
    folder = tmp_path / 'src' / 'cat'
    folder.mkdir(parents=True)
    for extension in EXTENSIONS:
        mode = 'L' if extension == '.pgm' else 'RGB'
        path = folder / f'{extension[1:]}{extension.upper()}'
        Image.new(mode, (8, 6)).save(path)
    convert(folder.parent, tmp_path / 'out', 'folders')
    dataset = LongTailMultiLabelDataset(
        'train.json',
        data_root=str(tmp_path / 'out'),
        data_prefix='../src',
        pipeline=[dict(type='LoadCheckedImage')],
    )
    shapes = [item['img'].shape for item in dataset]
    assert shapes == [(6, 8, 3)] * len(EXTENSIONS)
    found, _ = find_images(folder)
    assert len(found) == len(EXTENSIONS)


def test_voc_folder_of_the_usual_layout(root, tmp_path):
    (root / 'Annotations').mkdir()
    (root / 'a.jpg').rename(root / 'a.keep')
    draw(root / 'JPEGImages' / 'a.jpg')
    (root / 'Annotations' / '1.xml').write_text(
        '<annotation><filename>a.jpg</filename>'
        '<object><name>cat</name></object></annotation>'
    )
    convert(root, tmp_path / 'out', 'voc')
    data = load(tmp_path / 'out' / 'train.json')['data_list']
    assert data == [{'img_path': 'a.jpg', 'gt_label': [0]}]


def test_the_tool(root, tmp_path, monkeypatch, capsys):
    tool = Path(__file__).parents[2] / 'tools/dataset_converters/custom.py'

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['custom.py', *map(str, args)])
        try:
            runpy.run_path(str(tool), run_name='__main__')
        except SystemExit as end:
            return end.code
        return 0

    source = many(root)
    out = tmp_path / 'out'
    words = ('csv', source, '--out', out, '--test-fraction', '0.2')
    assert run(*words, '--max-count', '50', '--shape', '2') == 0
    assert load(out / 'split.json')['recipe']['shape'] == 2.0
    assert run(*words) == 1
    assert 'error: ' in capsys.readouterr().err
    assert run(*words, '--test', source) == 2
    assert run(*words, '--max-count', '0') == 2
    assert 'max_count=0' in capsys.readouterr().err
    assert run(*words, '--shape', '2') == 2
    assert 'need --max-count' in capsys.readouterr().err
    assert run('csv', source, '--out', out, '--test-fraction', '1') == 2
    assert run('pdf', source, '--out', out) == 2
