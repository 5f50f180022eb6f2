"""What is wrong with a source is named, with file and line."""

import re

import pytest
from own_data import (
    convert,
    draw,
    load,
    make_coco,
    make_csv,
    make_folders,
    make_images,
    make_mmpretrain,
)

from ltml_mm.datasets import LongTailMultiLabelDataset


@pytest.fixture
def root(tmp_path):
    return make_images(tmp_path / 'src')


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'is empty'),
        ('a.jpg,cat', r'x\.csv:1: the header'),
        ('path;labels\na.jpg;cat', 'separated by commas'),
        ('path,labels\na.jpg', r'columns: 1\n.*x\.csv:2: 1 in place of 2'),
        ('path,cat,dog\n"a\n.jpg",1,0,0', r'x\.csv:2: 4 in place of 3'),
        ('path,labels\n\na.jpg,cat;;dog', r'empty labels: 1\n.*csv:3'),
        ('path,labels\na.jpg,cat;cat', r'labels that repeat: 1\n.*csv:2'),
        ('path,cat,dog\na.jpg,1,yes', r"csv:2: 'yes' in the column 'dog'"),
        ('path,cat,cat\na.jpg,1,0', r"repeat: 1\n  .*x\.csv: 'cat'"),
        ('path,cat\na.jpg,dog', r'"path,labels".*: 1\n.*csv:2: \'dog\''),
        ('path,labels\na.jpg,\x07', r"class names: 1\n  .*x\.csv:2: '\\x07'"),
        ('path,labels\n"a.jpg,cat', 'not valid CSV'),
        ('path,labels\n,cat', r'csv:2: empty image path'),
        ('path,labels\na.jpg,cat\n./a.jpg,dog', r'csv:3: a.jpg stands at .*2'),
        ('path,labels\nz.jpg,cat', r'missing images: 1\n.*csv:2: .*z\.jpg'),
        ('path,labels\n../x.jpg,cat', r'csv:2: \.\./x\.jpg lies outside'),
        ('path,labels\n/etc/passwd,cat', r'csv:2: /etc/passwd lies outside'),
        ('path,labels\na.jpg,', r'x\.csv: names no class'),
        ('path,labels\n', r'x\.csv: holds no image'),
        ('path,labels\na\0.jpg,cat', 'csv:'),
    ],
)
def test_bad_csv_is_named_and_nothing_written(root, tmp_path, text, words):
    (root / 'x.csv').write_text(text)
    with pytest.raises(ValueError, match=words):
        convert(root / 'x.csv', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_not_utf8_names_the_line(root, tmp_path):
    (root / 'x.csv').write_bytes(b'path,labels\na.jpg,caf\xe9')
    with pytest.raises(ValueError, match=r'x\.csv:2: not UTF-8'):
        convert(root / 'x.csv', tmp_path / 'out')


@pytest.mark.parametrize(
    'text',
    [
        '{"metainfo": {"classes": ["a"]},\n]',
        '{"metainfo": {"classes": ["a"]}, "data_list": [], "data_list": []}',
        '{"metainfo": {"classes": ["a"]}, "data_list": [{"img_path": "a.jpg", '
        '"gt_label": [1]}]}',
    ],
)
def test_json_is_refused_as_the_dataset_refuses_it(root, tmp_path, text):
    (root / 'x.json').write_text(text)
    with pytest.raises(ValueError, match=r'x\.json: ') as expected:
        LongTailMultiLabelDataset(str(root / 'x.json'))
    with pytest.raises(ValueError, match=re.escape(str(expected.value))):
        convert(root / 'x.json', tmp_path / 'out', 'mmpretrain')


@pytest.mark.parametrize('form', ['mmpretrain', 'coco'])
def test_byte_order_marks_are_read(root, tmp_path, form):
    source, _ = {'mmpretrain': make_mmpretrain, 'coco': make_coco}[form](root)
    source.write_bytes(b'\xef\xbb\xbf' + source.read_bytes())
    convert(source, tmp_path / 'out', form)


@pytest.mark.parametrize(
    'declaration',
    [
        '<!DOCTYPE annotation [<!ENTITY a "b">]>',
        '<!DOCTYPE annotation [<!ENTITY b "bb"><!ENTITY a "&b;&b;&b;">]>',
        '<!DOCTYPE annotation [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE annotation SYSTEM "http://127.0.0.1:9/voc.dtd">',
    ],
)
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16'])
def test_entities_are_refused(root, tmp_path, declaration, encoding):
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?>\n{declaration}\n'
        '<annotation><filename>&a;</filename></annotation>'
    )
    (root / 'x.xml').write_text(text, encoding)
    with pytest.raises(ValueError, match=r'x\.xml: .*declares a document ty'):
        convert(root, tmp_path / 'out', 'voc')


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('<annotation></annotation>', 'names no image'),
        ('<svg/>', 'the root is "svg"'),
        ('<object></object>', r'object\[0\] needs one "name"'),
        (
            '<object><name>a</name></object>'
            '<object><name>a</name>\n<name>b</name></object>',
            r'object\[1\] needs one "name"',
        ),
        ('<annotation>', 'line 1'),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', 'klingon'),
    ],
)
def test_bad_xml_is_named(root, tmp_path, text, words):
    if text.startswith('<object>'):
        text = f'<annotation><filename>a.jpg</filename>{text}</annotation>'
    (root / 'x.xml').write_text(text)
    with pytest.raises(ValueError, match=rf'x\.xml: not an anno.*{words}'):
        convert(root, tmp_path / 'out', 'voc')


@pytest.mark.parametrize(
    ('path', 'words'),
    [
        ('loose.jpg', 'outside label folders: 1'),
        ('cat/notes.txt', r'not images: 1\n.*notes\.txt'),
        ('cat++dog/a.jpg', r"empty labels: 1\n.*: 'cat\+\+dog'"),
        ('cat+cat/a.jpg', 'labels that repeat: 1'),
        ('cat/deep/a.jpg', 'not images: 1'),
    ],
)
def test_bad_folders_are_named(root, tmp_path, path, words):
    source, _ = make_folders(root)
    (source / path).parent.mkdir(parents=True, exist_ok=True)
    (source / path).touch()
    with pytest.raises(ValueError, match=words):
        convert(source, tmp_path / 'out', 'folders')


def test_paths_and_links_may_leave_only_if_allowed(root, tmp_path):
    draw(tmp_path / 'elsewhere' / 'x.jpg')
    (root / 'linked').symlink_to(tmp_path / 'elsewhere')
    (root / 'link.jpg').symlink_to(tmp_path / 'elsewhere' / 'x.jpg')
    for path in ('linked/x.jpg', 'link.jpg', '../elsewhere/x.jpg'):
        (root / 'x.csv').write_text(f'path,labels\n{path},cat')
        with pytest.raises(ValueError, match=r'x\.csv:2: .*outside'):
            convert(root / 'x.csv', tmp_path / 'out', output=['force'])
        summary = convert(
            root / 'x.csv', tmp_path / 'out', output=('force', 'allow_outside')
        )
        assert summary.endswith(' allow_outside=True')
        entry = load(tmp_path / 'out' / 'train.json')['data_list'][0]
        assert entry['img_path'] == path
    # A link that stays inside is fine.
    (root / 'inner.jpg').symlink_to(root / 'a.jpg')
    (root / 'x.csv').write_text('path,labels\ninner.jpg,cat')
    convert(root / 'x.csv', tmp_path / 'in')


def test_first_ten_of_a_kind_and_the_total(root, tmp_path):
    rows = [f'{i}.jpg,cat' for i in range(25)] + ['../o.jpg,cat']
    (root / 'x.csv').write_text('\n'.join(['path,labels', *rows[:-1]]))
    with pytest.raises(ValueError, match='missing images: 25') as caught:
        convert(root / 'x.csv', tmp_path / 'out')
    lines = str(caught.value).splitlines()
    assert lines[0] == 'missing images: 25, the first 10'
    assert len(lines) == 11


def test_check_images_lists_what_does_not_decode(root, tmp_path):
    source, _ = make_csv(root)
    whole = (root / 'b.jpg').read_bytes()
    (root / 'b.jpg').write_bytes(whole[: len(whole) // 2])
    (root / 'd.jpg').write_text('no image')
    with pytest.raises(ValueError, match='do not decode: 2') as caught:
        convert(source, tmp_path / 'out', output=['check_images'])
    lines = str(caught.value).splitlines()
    assert lines[0] == 'images that do not decode: 2'
    assert 'l.csv:3' in lines[1]
    assert 'l.csv:5' in lines[2]
    (root / 'b.jpg').write_bytes(whole)
    (root / 'd.jpg').write_bytes(whole)
    convert(source, tmp_path / 'out', output=['check_images'])
