"""One's own data: five formats that say the same, the options, the output."""

import os
from pathlib import Path

import numpy as np
import own_data
import pytest
from PIL import Image

from ltml_mm.apis.inferencer import find_images
from ltml_mm.datasets import LongTailMultiLabelDataset
from ltml_mm.datasets.images import EXTENSIONS
from ltml_mm.datasets.splits import ParetoRecipe


@pytest.mark.parametrize(('form', 'make'), own_data.CASES)
def test_every_format_says_the_same(root, out, form, make):
    source, expected = make(root)
    summary = own_data.convert(source, out, form)
    value = own_data.load(out / 'train.json')
    assert value['metainfo'] == {
        'dataset_type': 'multi-label',
        'task_name': 'out',
        'classes': list(own_data.CLASSES),
        'class_counts': [3, 3, 2],
        'num_train_images': 4,
    }
    found = {e['img_path']: tuple(e['gt_label']) for e in value['data_list']}
    assert found == expected
    assert list(found) == list(expected)
    assert not (out / 'test.json').exists()
    # The command in the summary tells the dataset where the images are.
    prefix = summary.rsplit('data_prefix=', 1)[1]
    dataset = LongTailMultiLabelDataset(
        'train.json', data_root=str(out), data_prefix=prefix
    )
    assert all(Path(info['img_path']).is_file() for info in dataset)


def test_twice_gives_identical_bytes(root, tmp_path):
    source, _ = own_data.make_csv(root)
    for folder in ('1', '2'):
        own_data.convert(source, tmp_path / folder / 'out', test=0.5, seed=3)
    first, second = (snapshot(tmp_path / f / 'out') for f in ('1', '2'))
    assert set(first) == {'train.json', 'test.json', 'split.json'}
    assert first == second
    assert str(tmp_path).encode() not in b''.join(first.values())


def counts_of(value):
    labels = [k for e in value['data_list'] for k in e['gt_label']]
    return np.bincount(labels, minlength=3)


def test_holdout_and_long_tail(root, tmp_path):
    source = own_data.many(root)
    own_data.convert(source, tmp_path / 'all')
    recipe = ParetoRecipe(100, min_count=5, shape=3.0)
    own_data.convert(source, tmp_path / 'out', test=0.25, recipe=recipe)
    whole, train, test = (
        own_data.load(tmp_path / name)
        for name in ('all/train.json', 'out/train.json', 'out/test.json')
    )
    assert len(test['data_list']) == pytest.approx(100, abs=2)
    assert counts_of(test) == pytest.approx(counts_of(whole) / 4, abs=2)
    assert test['metainfo'] == train['metainfo']
    counts = counts_of(train).tolist()
    assert train['metainfo']['class_counts'] == counts
    # The last class drawn meets its target; it co-occurs least.
    assert counts[2] == ParetoRecipe(100, 5, 3.0).targets(3)[2]
    paths = [e['img_path'] for e in train['data_list'] + test['data_list']]
    assert len(set(paths)) == len(paths)
    split = own_data.load(tmp_path / 'out' / 'split.json')
    assert split['holdout']['fraction'] == 0.25
    assert split['recipe']['shape'] == 3.0


@pytest.mark.parametrize('fraction', [0.01, 0.99])
def test_no_set_may_be_empty(root, out, fraction):
    with pytest.raises(ValueError, match=r"would be .*'(train|test)': 0"):
        own_data.convert(own_data.make_csv(root)[0], out, test=fraction)


def test_a_validation_part_leaves_the_test_part_as_it_is(root, tmp_path):
    source, out = own_data.many(root), tmp_path / 'out'
    own_data.convert(source, tmp_path / 'two', test=0.25)
    summary = own_data.convert(source, out, test=0.25, val=0.15)
    assert '240 images to train, 60 to validate on, 100 to test' in summary
    expected = own_data.load(tmp_path / 'two/test.json')['data_list']
    train, val, test = (
        own_data.load(out / f'{part}.json')
        for part in ('train', 'val', 'test')
    )
    assert test['data_list'] == expected
    assert val['metainfo'] == train['metainfo']
    whole = counts_of(train) + counts_of(val) + counts_of(test)
    assert counts_of(val) == pytest.approx(0.15 * whole, abs=2)
    paths = [e['img_path'] for s in (train, val, test) for e in s['data_list']]
    assert len({*paths}) == len(paths) == 400
    assert own_data.load(out / 'split.json')['num_val_images'] == 60
    # One of an earlier conversion does not stay.
    own_data.convert(source, out, test=0.25, output=['force'])
    assert not (out / 'val.json').exists()


def test_own_validation_set_and_no_test_set(root, out):
    source, _ = own_data.make_csv(root)
    own_data.draw(root / 'v.jpg')
    (root / 'val.csv').write_text('path,labels\nv.jpg,emu\n')
    own_data.convert(source, out, val=str(root / 'val.csv'))
    assert own_data.load(out / 'val.json')['data_list'] == [
        {'img_path': 'v.jpg', 'gt_label': [2]}
    ]
    assert not (out / 'test.json').exists()


def test_fractions_that_leave_nothing_to_train_on(root, out):
    with pytest.raises(ValueError, match='leave no image to train on'):
        own_data.convert(own_data.make_csv(root)[0], out, test=0.5, val=0.5)


def test_own_test_set(root, tmp_path):
    source, _ = own_data.make_csv(root)
    own_data.draw(root / 'e.jpg')
    (tmp_path / 't.csv').write_text('path,labels\ne.jpg,emu')
    own_data.convert(source, tmp_path / 'out', test=str(tmp_path / 't.csv'))
    test = own_data.load(tmp_path / 'out' / 'test.json')
    # Labels and counts are those of the training set.
    assert test['data_list'] == [{'img_path': 'e.jpg', 'gt_label': [2]}]
    assert test['metainfo']['class_counts'] == [3, 3, 2]
    for row, words in (
        ('a.jpg,cat', r'repeat: 1\n.*t\.csv:2: a\.jpg stands at .*l\.csv:2'),
        ('e.jpg,gnu', r"unknown or .*: 1\n.*t\.csv:2: 'gnu'"),
    ):
        (tmp_path / 't.csv').write_text(f'path,labels\n{row}')
        with pytest.raises(ValueError, match=words):
            own_data.convert(
                source, tmp_path / 'no', test=str(tmp_path / 't.csv')
            )


def test_classes_file_fixes_order_and_names(root, tmp_path):
    source, _ = own_data.make_csv(root)
    listing = root / 'classes.txt'
    listing.write_text('emu\ngnu\ncat\ndog\n')
    with pytest.warns(UserWarning, match=r'without an image in train\S+ gnu'):
        own_data.convert(source, tmp_path / 'out', classes=str(listing))
    train = own_data.load(tmp_path / 'out' / 'train.json')
    assert train['metainfo']['class_counts'] == [2, 0, 3, 3]
    assert train['data_list'][2]['gt_label'] == [0, 3]
    for text, words in (
        ('cat\ndog', r"l\.csv:4: 'emu'"),
        ('a\na\n\nb', r"repeat: 1\n.*txt:2: 'a'\n.*empty.*: 1\n.*txt:3: ''"),
    ):
        listing.write_text(text)
        with pytest.raises(ValueError, match=words):
            own_data.convert(source, tmp_path / 'no', classes=str(listing))


def test_image_files_are_the_same_in_folders_training_and_prediction(tmp_path):
    folder = tmp_path / 'src' / 'cat'
    folder.mkdir(parents=True)
    for end in EXTENSIONS:
        image = Image.new('L' if end == '.pgm' else 'RGB', (8, 6))
        image.save(folder / f'{end[1:]}{end.upper()}')
    own_data.convert(folder.parent, tmp_path / 'out', 'folders')
    dataset = LongTailMultiLabelDataset(
        'train.json',
        data_root=str(tmp_path / 'out'),
        data_prefix='../src',
        pipeline=[dict(type='LoadCheckedImage')],
    )
    shapes = [item['img'].shape for item in dataset]
    assert shapes == [(6, 8, 3)] * len(EXTENSIONS)
    assert len(find_images(folder)[0]) == len(EXTENSIONS)


def test_source_is_never_overwritten(root):
    source, _ = own_data.make_mmpretrain(root)
    source.rename(root / 'train.json')
    before = (root / 'train.json').read_bytes()
    with pytest.raises(ValueError, match='read as a source'):
        own_data.convert(root / 'train.json', root, 'mmpretrain', ['force'])
    assert (root / 'train.json').read_bytes() == before


def snapshot(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize('fails_at', range(1, 3))
def test_a_fault_while_writing_leaves_whole_files_and_no_record(
    root, tmp_path, monkeypatch, fails_at
):
    source, _ = own_data.make_csv(root)
    out = tmp_path / 'out'
    own_data.convert(source, out, test=0.5)
    (out / 'mine.txt').write_text('mine')
    calls = []
    replace = os.replace

    def faulty(*args):
        calls.append(args)
        if len(calls) == fails_at:
            raise OSError(28, 'No space left on device', args[1])
        replace(*args)

    monkeypatch.setattr(os, 'replace', faulty)
    with pytest.raises(OSError, match='No space left'):
        own_data.convert(source, out, output=['force'])
    assert set(snapshot(out)) == {'train.json', 'mine.txt'}
    assert (
        len(own_data.load(out / 'train.json')['data_list'])
        == (2, 4)[fails_at - 1]
    )
    assert (out / 'mine.txt').read_text() == 'mine'
    monkeypatch.undo()
    own_data.convert(source, out, output=['force'])
    # A stale test set would not belong to the new training set.
    assert set(snapshot(out)) == {'train.json', 'split.json', 'mine.txt'}


def test_the_tool(root, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'out'
    source = own_data.many(root)

    def run(*options):
        words = ('custom.py', 'csv', source, '--out', out, *options)
        return own_data.run_tool(monkeypatch, *words), capsys.readouterr().err

    options = ('--test-fraction', '0.2', '--max-count', '50', '--shape', '2')
    assert run(*options)[0] == 0
    split = own_data.load(out / 'split.json')
    assert split['recipe']['shape'] == 2.0
    assert split['holdout'] == {'fraction': 0.2, 'seed': 0}
    assert run()[0] == 1
    for words, status, told in (
        (('--test-fraction', '1'), 1, 'must be between 0 and 1'),
        (('--max-count', '0'), 1, 'max_count=0'),
        (('--shape', '2'), 1, 'need --max-count'),
        (('--test', source, '--test-fraction', '0.2'), 2, 'not allowed with'),
    ):
        found = run('--force', *words)
        assert found[0] == status
        assert told in found[1]
