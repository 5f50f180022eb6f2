"""What is wrong with a source is named, with file and line."""

import json
import re

import own_data
import pytest

from ltml_mm.datasets import LongTailMultiLabelDataset
from ltml_mm.datasets.converters.image_files import BROKEN, MISSING


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'is empty'),
        ('a.jpg,cat', r'x\.csv:1: the header'),
        ('path,labels\na.jpg', r'columns: 1\n.*x\.csv:2: 1 in place of 2'),
        ('path\na.jpg', r'x\.csv:1: the header'),
        ('path,cat\n"a\n.jpg",1\nb.jpg,1,0', r'x\.csv:4: 3 in place of 2'),
        ('path,labels\n\na.jpg,cat;;dog', r'empty or repeat: 1\n.*csv:3'),
        ('path,labels\na.jpg,cat;cat', r'empty or repeat: 1\n.*csv:2'),
        ('path,cat,cat\na.jpg,1,0', r"repeat: 1\n  .*x\.csv: 'cat'"),
        ('path,cat,dog\na.jpg,1,emu\nb.jpg,0,1', r"csv:2: 'emu' in the .*dog"),
        ('path,labels\na.jpg,\x07', r"written: 1\n  .*x\.csv:2: '\\x07'"),
        ('path,labels\n"a.jpg,cat\nb.jpg,dog', r'x\.csv:2: not valid CSV'),
        ('path,labels\n,cat', r"missing images .*: 1\n.*csv:2: '\.' in .*src"),
        ('path,labels\na.jpg,cat\n./a.jpg,dog', r'csv:3: a.jpg stands at .*2'),
        ('path,labels\na.jpg,', r'x\.csv: names no class'),
        ('path,labels\n', r'x\.csv: holds no image'),
        ('path,labels\na\0.jpg,cat', 'csv:'),
        ('path,labels\na\x1b.jpg,cat', r"bad .*: 1\n.*csv:2: 'a.x1b\.jpg'"),
    ],
)
def test_bad_csv_is_named_and_nothing_written(root, out, text, words):
    (root / 'x.csv').write_text(text, errors='surrogateescape')
    with pytest.raises(ValueError, match=words):
        own_data.convert(root / 'x.csv', out)
    assert not out.exists()


def test_json_is_refused_as_the_dataset_refuses_it(root, out):
    source, _ = own_data.make_mmpretrain(root)
    source.write_text(source.read_text().replace('[2, 1]', '[3, 1]'))
    with pytest.raises(ValueError, match=r'l\.json: .*\b3\b') as expected:
        LongTailMultiLabelDataset(str(source))
    with pytest.raises(ValueError, match=re.escape(str(expected.value))):
        own_data.convert(source, out, 'mmpretrain')


FIELDS = 'needs an "id", a number or a text, and a text "file_name"'


@pytest.mark.parametrize(
    ('key', 'entry', 'words'),
    [
        ('images', {'id': 0, 'file_name': 'x.jpg'}, 'ids that repeat.*: 0'),
        ('images', {'id': 8.0, 'file_name': 'x.jpg'}, FIELDS),
        ('images', {'id': 8}, FIELDS),
        ('images', {'id': 8, 'file_name': '/etc/passwd'}, 'lies outside'),
        ('annotations', {'image_id': 1, 'category_id': 1}, ': image_id 1$'),
        (
            'annotations',
            {'image_id': '0', 'category_id': 1},
            ' is the text "0", the ',
        ),
        (
            'annotations',
            {'image_id': 0, 'category_id': 1.0},
            r'category_id is the number 1\.0, the list has the number 1$',
        ),
        ('annotations', {'image_id': True, 'category_id': 1}, ': image_id tr'),
        ('annotations', {'image_id': 0.5, 'category_id': 1}, r'_id 0\.5$'),
        ('annotations', {'image_id': [0], 'category_id': 1}, r': image_id \['),
        ('annotations', {'image_id': 0}, ': category_id null'),
        ('annotations', None, ': image_id null'),
    ],
)
def test_bad_coco_is_named(root, out, key, entry, words):
    source, _ = own_data.make_coco(root)
    value = own_data.load(source)
    value[key].append(entry)
    source.write_text(json.dumps(value))
    place = rf'l\.json: {key}\[{len(value[key]) - 1}\]: '
    with pytest.raises(ValueError, match=f'(?s){words}') as caught:
        own_data.convert(source, out, 'coco')
    assert re.search(place, str(caught.value))


@pytest.mark.parametrize(
    'declaration',
    [
        '<!DOCTYPE annotation [<!ENTITY b "bb"><!ENTITY a "&b;&b;&b;">]>',
        '<!DOCTYPE annotation SYSTEM "http://127.0.0.1:9/voc.dtd">',
    ],
)
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16'])
def test_entities_are_refused(root, out, declaration, encoding):
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?>\n{declaration}\n'
        '<annotation><filename>&a;</filename></annotation>'
    )
    (root / 'x.xml').write_text(text, encoding)
    with pytest.raises(ValueError, match=r'x\.xml: .*declares a document ty'):
        own_data.convert(root, out, 'voc')


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('<annotation></annotation>', 'names no image'),
        ('<object></object>', r'object\[0\] needs one "name"'),
        ('<object><name> </name></object>', r'object\[0\] needs one "name"'),
        (
            '<object><name>a</name></object>'
            '<object><name>a</name>\n<name>b</name></object>',
            r'object\[1\] needs one "name"',
        ),
        ('<annotation>', 'line 1'),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', 'klingon'),
    ],
)
def test_bad_xml_is_named(root, out, text, words):
    if text.startswith('<object>'):
        text = f'<annotation><filename>a.jpg</filename>{text}</annotation>'
    (root / 'x.xml').write_text(text)
    with pytest.raises(ValueError, match=rf'x\.xml: not an anno.*{words}'):
        own_data.convert(root, out, 'voc')


@pytest.mark.parametrize(
    ('path', 'words'),
    [
        ('loose.jpg', 'outside label folders: 1'),
        ('cat/notes.txt', r'not images: 1\n.*notes\.txt'),
        ('cat++dog/a.jpg', r"empty or repeat: 1\n.*: 'cat\+\+dog'"),
        ('cat/deep.jpg/a.jpg', 'not images: 1'),
    ],
)
def test_bad_folders_are_named(root, out, path, words):
    source, _ = own_data.make_folders(root)
    (source / path).parent.mkdir(parents=True, exist_ok=True)
    (source / path).touch()
    with pytest.raises(ValueError, match=words):
        own_data.convert(source, out, 'folders')


def test_paths_and_links_may_leave_only_if_allowed(root, tmp_path):
    # Its name begins as that of the root, and a link leads back to that.
    beside = tmp_path / 'src2'
    own_data.draw(beside / 'x.jpg')
    (beside / 'back').symlink_to(root)
    (root / 'linked').symlink_to(beside)
    (root / 'link.jpg').symlink_to(beside / 'x.jpg')
    beyond = ('../src2/x.jpg', '../src2/back/a.jpg', f'{beside}/x.jpg')
    for path in ('linked/x.jpg', 'link.jpg', *beyond):
        (root / 'x.csv').write_text(f'path,labels\n{path},cat')
        source, out = root / 'x.csv', tmp_path / 'out'
        with pytest.raises(ValueError, match=r'x\.csv:2: .*outside'):
            own_data.convert(source, out, output=['force'])
        summary = own_data.convert(
            source, out, output=['force', 'allow_outside']
        )
        assert summary.endswith(' allow_outside=True')
        entry = own_data.load(out / 'train.json')['data_list'][0]
        assert entry['img_path'] == path
    # A link that stays inside is fine.
    (root / 'inner.jpg').symlink_to(root / 'a.jpg')
    (root / 'x.csv').write_text('path,labels\ninner.jpg,cat')
    own_data.convert(root / 'x.csv', tmp_path / 'in')


def test_first_ten_of_a_kind_and_the_total(root, out):
    rows = [f'{i}.jpg,cat' for i in range(25)] + ['/etc/passwd,cat']
    (root / 'x.csv').write_text('\n'.join(['path,labels', *rows]))
    with pytest.raises(ValueError, match=r'missing images .*: 25') as caught:
        own_data.convert(root / 'x.csv', out)
    lines = str(caught.value).splitlines()
    assert lines[0] == f'{MISSING}: 25, the first 10'
    assert lines[11].startswith('images outside (--allow-outside')
    assert len(lines) == 13


def test_check_images_lists_what_does_not_decode(root, out):
    source, _ = own_data.make_csv(root)
    whole = (root / 'b.jpg').read_bytes()
    (root / 'b.jpg').write_bytes(whole[: len(whole) // 2])
    (root / 'd.jpg').write_text('no image')
    with pytest.raises(ValueError, match=r'do not decode .*: 2') as caught:
        own_data.convert(source, out, output=['check_images'])
    lines = str(caught.value).splitlines()
    assert lines[0] == f'{BROKEN}: 2'
    assert 'l.csv:3' in lines[1]
    assert 'l.csv:5' in lines[2]
    (root / 'b.jpg').write_bytes(whole)
    (root / 'd.jpg').write_bytes(whole)
    own_data.convert(source, out, output=['check_images'])
