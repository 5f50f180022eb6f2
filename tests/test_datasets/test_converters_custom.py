"""One's own data: five formats that say the same, options, refusals."""

import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltml_mm.datasets import LongTailMultiLabelDataset
from ltml_mm.datasets.converters import (
    ConversionError,
    CustomOptions,
    OutputOptions,
    convert_custom,
)
from ltml_mm.datasets.splits import ParetoRecipe, pareto_targets

CLASSES = ('cat', 'dog', 'emu')
# Image names and labels that every format can express.
LABELS = {
    'a.jpg': (0,),
    'b.jpg': (0, 1),
    'c.jpg': (1, 2),
    'd.jpg': (0, 1, 2),
}


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (8, 6), (9, 8, 7)).save(path)


def names(labels):
    return [CLASSES[k] for k in labels]


def make_csv(root):
    rows = [f'{p},{";".join(names(v))}' for p, v in LABELS.items()]
    (root / 'l.csv').write_text('\n'.join(['path,labels', *rows]))
    return root / 'l.csv', LABELS


def make_columns(root):
    rows = [
        ','.join([p, *(str(int(k in v)) for k in range(3))])
        for p, v in LABELS.items()
    ]
    text = '\r\n'.join(['path,' + ','.join(CLASSES), *rows, ''])
    (root / 'l.csv').write_bytes(b'\xef\xbb\xbf' + text.encode())
    return root / 'l.csv', LABELS


def make_coco(root):
    value = {
        'images': [{'id': i, 'file_name': p} for i, p in enumerate(LABELS)],
        'annotations': [
            {'id': 10 * i + k, 'image_id': i, 'category_id': k + 5}
            for i, v in enumerate(LABELS.values())
            for k in v
        ],
        'categories': [
            {'id': k + 5, 'name': n} for k, n in enumerate(CLASSES)
        ],
    }
    (root / 'l.json').write_text(json.dumps(value))
    return root / 'l.json', LABELS


def make_voc(root):
    for n, (path, labels) in enumerate(LABELS.items()):
        objects = ''.join(
            f'<object><name>{name}</name></object>' for name in names(labels)
        )
        (root / f'{n}.xml').write_text(
            f'<annotation><filename>{path}</filename>{objects}</annotation>'
        )
    return root, LABELS


def make_folders(root):
    moved = {}
    for path, labels in LABELS.items():
        new = f'{"+".join(names(labels))}/{path}'
        draw(root / 'sets' / new)
        moved[new] = labels
    (root / 'sets' / '.hidden').touch()
    return root / 'sets', dict(
        sorted(moved.items(), key=lambda i: i[0].split('/'))
    )


def make_mmpretrain(root):
    value = {
        'metainfo': {'classes': CLASSES},
        'data_list': [
            {'img_path': p, 'gt_label': v[::-1]} for p, v in LABELS.items()
        ],
    }
    (root / 'l.json').write_text(json.dumps(value))
    return root / 'l.json', LABELS


MAKERS = {
    'csv': [make_csv, make_columns],
    'coco': [make_coco],
    'voc': [make_voc],
    'folders': [make_folders],
    'mmpretrain': [make_mmpretrain],
}
CASES = [(form, make) for form, makers in MAKERS.items() for make in makers]


@pytest.fixture
def root(tmp_path):
    for path in LABELS:
        draw(tmp_path / 'src' / path)
    return tmp_path / 'src'


def convert(source, out, form='csv', force=False, outside=False, **options):
    output = OutputOptions(str(out), force, False, outside)
    return convert_custom(form, str(source), output, CustomOptions(**options))


def load(path):
    return json.loads(Path(path).read_text())


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
    options = {'test_fraction': 0.5, 'seed': 3}
    convert(source, tmp_path / '1' / 'out', **options)
    convert(source, tmp_path / '2' / 'out', **options)
    for name in ('train.json', 'test.json', 'split.json'):
        first = (tmp_path / '1' / 'out' / name).read_bytes()
        assert first == (tmp_path / '2' / 'out' / name).read_bytes()
        assert str(tmp_path).encode() not in first


def many(root, num_images=400):
    rng = np.random.default_rng(0)
    lines = ['path,labels']
    for i in range(num_images):
        (root / f'{i}.png').touch()
        labels = np.flatnonzero(rng.random(3) < (0.8, 0.4, 0.1))
        lines.append(f'{i}.png,{";".join(names(labels))}')
    (root / 'many.csv').write_text('\n'.join(lines))
    return root / 'many.csv'


def counts_of(value):
    labels = [k for e in value['data_list'] for k in e['gt_label']]
    return np.bincount(labels, minlength=3)


def test_holdout_and_long_tail(root, tmp_path):
    source = many(root)
    convert(source, tmp_path / 'all')
    recipe = ParetoRecipe(100, min_count=5, shape=3.0)
    convert(source, tmp_path / 'out', test_fraction=0.25, recipe=recipe)
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
    assert counts[2] == pareto_targets(3, 100, 5, 3.0)[2]
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
        with pytest.raises(ConversionError, match=words):
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
    with pytest.raises(ConversionError, match=r"l\.csv:4: 'emu'"):
        convert(source, tmp_path / 'no', classes=str(listing))
    listing.write_text('cat\ndog\nemu\ncat\n\nx')
    with pytest.raises(ConversionError, match="repeat: 1\n  'cat'"):
        convert(source, tmp_path / 'no', classes=str(listing))


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'is empty'),
        ('a.jpg,cat', r'x\.csv:1: the header'),
        ('path;labels\na.jpg;cat', 'separated by commas'),
        ('path,labels\na.jpg', r'x\.csv:2: 1 columns where .* has 2'),
        ('path,cat,dog\n"a\n.jpg",1,0,0', r'x\.csv:2: 4 columns'),
        ('path,labels\n\na.jpg,cat;;dog', r'empty labels: 1\n.*csv:3'),
        ('path,labels\na.jpg,cat;cat', r'labels that repeat: 1\n.*csv:2'),
        ('path,cat,dog\na.jpg,1,yes', r"csv:2: 'yes' in the column 'dog'"),
        ('path,cat,cat\na.jpg,1,0', "class names that repeat: 1\n  'cat'"),
        ('path,labels\n"a.jpg,cat', 'not valid CSV'),
        ('path,labels\n,cat', r'csv:2: empty image path'),
        ('path,labels\na.jpg,cat\n./a.jpg,dog', r'csv:3: a.jpg stands at .*2'),
        ('path,labels\nz.jpg,cat', r'missing images: 1\n.*csv:2: .*z\.jpg'),
        ('path,labels\n../x.jpg,cat', r'csv:2: \.\./x\.jpg lies outside'),
        ('path,labels\n/etc/passwd,cat', r'csv:2: /etc/passwd lies outside'),
        ('path,labels\na.jpg,', 'names no class'),
        ('path,labels\n', 'no images'),
        ('path,labels\na\0.jpg,cat', 'csv:'),
    ],
)
def test_bad_csv_is_named_and_nothing_written(root, tmp_path, text, words):
    (root / 'x.csv').write_text(text)
    with pytest.raises(ConversionError, match=words):
        convert(root / 'x.csv', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_not_utf8_names_the_line(root, tmp_path):
    (root / 'x.csv').write_bytes(b'path,labels\na.jpg,caf\xe9')
    with pytest.raises(ConversionError, match=r'x\.csv:2: not UTF-8'):
        convert(root / 'x.csv', tmp_path / 'out')


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('{"metainfo":\n{"classes": ["a"]},\n]', r'x\.json:3: not valid JSON'),
        ('[1]', '"metainfo" must hold "classes"'),
        ('{"metainfo": {"classes": ["a"]}}', '"data_list" must be a list'),
        ('{"a": [NaN,\n"a NaN"]}', r'x\.json:1: NaN is not'),
        ('{"a": "NaN",\n"b": -Infinity}', r'x\.json:2: -Infinity'),
        ('{"a": {"b": 1},\n"b": 1, "c": "b",\n"a": 2}', r"x\.json:3: .*'a' r"),
        ('{"a": [{"\\u0062": 1,\n"b": 2}]}', r"x\.json:2: the key 'b' repe"),
        ('[' * 100000, 'nested too deeply'),
        ('9' * 5000, 'not valid JSON'),
    ],
)
def test_bad_json_names_the_line(root, tmp_path, text, words):
    (root / 'x.json').write_text(text)
    with pytest.raises(ConversionError, match=words):
        convert(root / 'x.json', tmp_path / 'out', 'mmpretrain')


@pytest.mark.parametrize(
    ('entry', 'words'),
    [
        ('7', 'must be an object'),
        ('{"gt_label": [0]}', '"img_path" must be'),
        ('{"img_path": "a.jpg", "gt_label": 0}', '"gt_label" must be a list'),
        ('{"img_path": "a.jpg", "gt_label": [3]}', 'label 3 .* 0 to 2'),
        ('{"img_path": "a.jpg", "gt_label": [-1]}', 'label -1 '),
        ('{"img_path": "a.jpg", "gt_label": [true]}', 'label True '),
        ('{"img_path": "a.jpg", "gt_label": [1, 1]}', 'a label repeats'),
    ],
)
def test_bad_entries_name_the_line(root, tmp_path, entry, words):
    (root / 'x.json').write_text(
        '{"data_list": [{"img_path": "b.jpg",\n"gt_label": []}\n,\n'
        + entry
        + '], "metainfo": {"classes": ["a", "b", "c"]}}'
    )
    words = rf'x\.json:4: data_list\[1\]: {words}'
    with pytest.raises(ConversionError, match=words):
        convert(root / 'x.json', tmp_path / 'out', 'mmpretrain')


def test_entity_bombs_are_refused(root, tmp_path):
    (root / 'x.xml').write_text(
        '<?xml version="1.0"?>\n<!DOCTYPE annotation [<!ENTITY a "b">]>\n'
        '<annotation><filename>&a;</filename></annotation>'
    )
    with pytest.raises(ConversionError, match=r'x\.xml:2: declares a docu'):
        convert(root, tmp_path / 'out', 'voc')


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('<annotation></annotation>', 'name no image'),
        ('<svg/>', r'x\.xml:1: the root element is "svg"'),
        ('<annotation>\n<object></object></annotation>', r'xml:2: an obj'),
        (
            '<annotation><object><name>a</name>\n<name>b</name></object>'
            '</annotation>',
            r'xml:2: an object needs one',
        ),
        ('<annotation>', r'xml:1: not valid XML'),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', 'not valid'),
    ],
)
def test_bad_xml_names_the_line(root, tmp_path, text, words):
    (root / 'x.xml').write_text(text)
    with pytest.raises(ConversionError, match=words):
        convert(root, tmp_path / 'out', 'voc')


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
    assert data == [{'img_path': 'JPEGImages/a.jpg', 'gt_label': [0]}]


@pytest.mark.parametrize(
    ('path', 'words'),
    [
        ('loose.jpg', 'outside the label folders: 1'),
        ('cat/notes.txt', r'not images: 1\n.*notes\.txt'),
        ('cat++dog/a.jpg', 'no label set: 1'),
        ('cat+cat/a.jpg', 'no label set: 1'),
        ('cat/deep/a.jpg', 'not images: 1'),
    ],
)
def test_bad_folders_are_named(root, tmp_path, path, words):
    source, _ = make_folders(root)
    (source / path).parent.mkdir(parents=True, exist_ok=True)
    (source / path).touch()
    with pytest.raises(ConversionError, match=words):
        convert(source, tmp_path / 'out', 'folders')


def test_paths_and_links_may_leave_only_if_allowed(root, tmp_path):
    draw(tmp_path / 'elsewhere' / 'x.jpg')
    (root / 'linked').symlink_to(tmp_path / 'elsewhere')
    (root / 'link.jpg').symlink_to(tmp_path / 'elsewhere' / 'x.jpg')
    for path in ('linked/x.jpg', 'link.jpg', '../elsewhere/x.jpg'):
        (root / 'x.csv').write_text(f'path,labels\n{path},cat')
        with pytest.raises(ConversionError, match=r'x\.csv:2: .*outside'):
            convert(root / 'x.csv', tmp_path / 'out', force=True)
        convert(root / 'x.csv', tmp_path / 'out', force=True, outside=True)
        entry = load(tmp_path / 'out' / 'train.json')['data_list'][0]
        assert entry['img_path'] == path
    # A link that stays inside is fine.
    (root / 'inner.jpg').symlink_to(root / 'a.jpg')
    (root / 'x.csv').write_text('path,labels\ninner.jpg,cat')
    convert(root / 'x.csv', tmp_path / 'in')


def test_first_ten_of_a_kind_and_the_total(root, tmp_path):
    rows = [f'{i}.jpg,cat' for i in range(25)] + ['../o.jpg,cat']
    (root / 'x.csv').write_text('\n'.join(['path,labels', *rows[:-1]]))
    with pytest.raises(ConversionError) as caught:
        convert(root / 'x.csv', tmp_path / 'out')
    lines = str(caught.value).splitlines()
    assert lines[0] == 'missing images: 25, the first 10'
    assert len(lines) == 11


def test_check_images_lists_what_does_not_decode(root, tmp_path):
    source, _ = make_csv(root)
    whole = (root / 'b.jpg').read_bytes()
    (root / 'b.jpg').write_bytes(whole[: len(whole) // 2])
    (root / 'd.jpg').write_text('no image')
    output = OutputOptions(str(tmp_path / 'out'), check_images=True)
    with pytest.raises(ConversionError) as caught:
        convert_custom('csv', str(source), output, CustomOptions())
    lines = str(caught.value).splitlines()
    assert lines[0] == 'images that do not decode: 2'
    assert 'l.csv:3' in lines[1]
    assert 'l.csv:5' in lines[2]
    (root / 'b.jpg').write_bytes(whole)
    (root / 'd.jpg').write_bytes(whole)
    convert_custom('csv', str(source), output, CustomOptions())


def test_source_is_never_overwritten(root):
    source, _ = make_mmpretrain(root)
    source.rename(root / 'train.json')
    before = (root / 'train.json').read_bytes()
    with pytest.raises(ConversionError, match='read as a source'):
        convert(root / 'train.json', root, 'mmpretrain', force=True)
    assert (root / 'train.json').read_bytes() == before


def snapshot(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize('fails_at', range(1, 6))
def test_a_fault_while_writing_leaves_what_was_there(
    root, tmp_path, monkeypatch, fails_at
):
    source, _ = make_csv(root)
    out = tmp_path / 'out'
    convert(source, out, test_fraction=0.5)
    (out / 'mine.txt').write_text('mine')
    before = snapshot(out)
    calls = []
    replace = os.replace

    def faulty(*args):
        calls.append(args)
        if len(calls) == fails_at:
            raise OSError(28, 'No space left on device', args[1])
        replace(*args)

    # Three old files move away, then two new ones move in.
    monkeypatch.setattr(os, 'replace', faulty)
    with pytest.raises(ConversionError, match='No space left'):
        convert(source, out, force=True)
    assert snapshot(out) == before
    assert sorted(p.name for p in out.iterdir()) == sorted(before)
    monkeypatch.undo()
    convert(source, out, force=True)
    # A stale test set would not belong to the new training set.
    assert set(snapshot(out)) == {'train.json', 'split.json', 'mine.txt'}


def test_output_folder_that_is_a_file(root, tmp_path):
    source, _ = make_csv(root)
    (tmp_path / 'out').touch()
    with pytest.raises(ConversionError, match='not a folder'):
        convert(source, tmp_path / 'out')


def test_the_tool(root, tmp_path, monkeypatch, capsys):
    tool = Path(__file__).parents[2] / 'tools/dataset_converters/custom.py'

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['custom.py', *map(str, args)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(tool), run_name='__main__')
        return caught.value.code

    source = many(root)
    out = tmp_path / 'out'
    words = ('csv', source, '--out', out, '--test-fraction', '0.2')
    assert run(*words, '--max-count', '50', '--shape', '2') == 0
    assert load(out / 'split.json')['recipe']['shape'] == 2.0
    assert run(*words) == 1
    assert 'nothing was written' in capsys.readouterr().err
    assert run(*words, '--test', source) == 2
    assert run(*words, '--max-count', '0') == 2
    assert 'max_count=0' in capsys.readouterr().err
    assert run('csv', source, '--out', out, '--test-fraction', '1') == 2
    assert run('pdf', source, '--out', out) == 2
