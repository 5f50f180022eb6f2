"""Files as other tools write them: read, or refused with what to write."""

import json
import warnings

import pytest
from own_data import (
    LABELS,
    convert,
    draw,
    load,
    make_coco,
    make_csv,
    names,
    write_xml,
)

EXPECTED = {path: names(labels) for path, labels in LABELS.items()}


def converted(out):
    value = load(out / 'train.json')
    classes = value['metainfo']['classes']
    return {
        entry['img_path']: [classes[k] for k in entry['gt_label']]
        for entry in value['data_list']
    }


def write_csv(root, rows, header='path,labels'):
    path = root / 'x.csv'
    path.write_text('\n'.join([header, *rows]))
    return path


SINGLE = ('cat', 'dog', 'emu')


def write_joined(root, mark):
    """Writes labels joined by a mark, and each label by itself."""
    rows = [f'{p},"{mark.join(v)}"' for p, v in EXPECTED.items()]
    for name in SINGLE:
        draw(root / f'{name}.jpg')
    return write_csv(root, [*rows, *(f'{n}.jpg,{n}' for n in SINGLE)])


@pytest.mark.parametrize(
    'mark', [';', '|', ',', ', ', ' | ', '\n', '、', '，']
)
def test_a_separator_is_found_and_said(root, out, mark):
    summary = convert(write_joined(root, mark), out)
    shown = 'line break' if mark == '\n' else repr(mark.strip())
    assert f"labels in 'labels', separated by {shown}\n" in summary
    assert {p: v for p, v in converted(out).items() if p in EXPECTED} == (
        EXPECTED
    )
    source = write_joined(root, mark.replace('\n', ','))
    convert(source, out, output=['force'], table={'separator': '#'})
    joined = mark.replace('\n', ',').join(['cat', 'dog'])
    assert joined in converted(out)['b.jpg']


@pytest.mark.parametrize('mark', ['/', '+', '&', ' ', ' & '])
def test_other_separators_are_asked_for(root, out, mark):
    source = write_joined(root, mark)
    with pytest.warns(UserWarning, match=r"--separator.*: 'cat.*dog' \(.*:3"):
        convert(source, out)
    asked = {'separator': mark.strip() or mark}
    convert(source, out, output=['force'], table=asked)
    assert {p: v for p, v in converted(out).items() if p in EXPECTED} == (
        EXPECTED
    )


@pytest.mark.parametrize('cell', ['cat;dog;', ';cat;dog', ' cat ; dog ;; '])
def test_a_separator_at_the_end_is_no_error(root, out, cell):
    convert(write_csv(root, [f'a.jpg,{cell}', 'b.jpg,;']), out)
    assert converted(out) == {'a.jpg': ['cat', 'dog'], 'b.jpg': []}


@pytest.mark.parametrize(
    'cell',
    [
        "['cat', 'dog']",
        '["cat", "dog"]',
        "['cat' 'dog']",  # of NumPy; Python would read catdog
        '{"choices": ["cat", "dog"]}',
        "{'dog', 'cat'}",
        "('cat', 'dog')",
        '[cat, dog]',
        '[{"rectanglelabels": ["cat"], "x": 1.5}, {"rectanglelabels": '
        '["dog", "cat"], "x": 2}]',
    ],
)
def test_lists_are_read(root, out, cell):
    quoted = cell.replace('"', '""')
    source = write_csv(root, [f'a.jpg,"{quoted}"', 'b.jpg,[]', 'c.jpg,dog'])
    assert 'one a cell and as lists' in convert(source, out)
    expected = {'a.jpg': ['cat', 'dog'], 'b.jpg': [], 'c.jpg': ['dog']}
    assert converted(out) == expected


@pytest.mark.parametrize('cell', ['[0.5, 1]', '["cat", "cat"]', '[true]'])
def test_bad_lists_are_named(root, out, cell):
    quoted = cell.replace('"', '""')
    source = write_csv(root, ['a.jpg,cat', f'b.jpg,"{quoted}"'])
    with pytest.raises(ValueError, match=r': 1\n.*csv:3: '):
        convert(source, out)


@pytest.mark.parametrize('label', ['nan', 'None', 'NULL', 'N/A', '<NA>'])
def test_words_for_nothing_are_no_labels(root, out, label):
    source = write_csv(root, ['a.jpg,cat', f'b.jpg,{label}'])
    with pytest.raises(ValueError, match=r'seem to be none .*: 1\n.*csv:3'):
        convert(source, out)
    convert(source, out, table={'separator': ';'})
    assert converted(out)['b.jpg'] == [label]


def test_names_with_marks_are_kept(root, out):
    source = write_csv(root, ['a.jpg,"hot dog, with mustard"', 'b.jpg,dog'])
    convert(source, out)
    assert converted(out)['a.jpg'] == ['hot dog, with mustard']


def test_a_separator_is_for_csv_and_not_empty(root, out):
    source, _ = make_coco(root)
    with pytest.raises(ValueError, match=r"are for .*','.* for coco"):
        convert(source, out, 'coco', table={'separator': ','})
    with pytest.raises(ValueError, match="not empty; got separator=''"):
        convert(make_csv(root)[0], out, table={'separator': ''})


def test_rows_of_one_image_are_united(root, out):
    rows = [f'{p},{name}' for p, v in EXPECTED.items() for name in v]
    source = write_csv(root, [*sorted(rows, key=lambda r: r[::-1]), rows[0]])
    with pytest.warns(UserWarning, match='9 rows list 4 images') as caught:
        convert(source, out)
    assert len([w for w in caught if 'united' in str(w.message)]) == 1
    assert converted(out) == EXPECTED


@pytest.mark.filterwarnings('ignore:.*are united')
def test_rows_with_and_without_a_label_contradict(root, out):
    convert(write_csv(root, ['a.jpg,', 'a.jpg,', 'b.jpg,dog']), out)
    assert converted(out) == {'a.jpg': [], 'b.jpg': ['dog']}
    source = write_csv(root, ['a.jpg,cat', 'a.jpg,'])
    with pytest.raises(ValueError, match=r'csv:3: a\.jpg stands at .*csv:2'):
        convert(source, out, output=['force'])


@pytest.mark.parametrize(
    ('yes', 'no'),
    [('1.0', '0.0'), ('True', 'False'), ('TRUE', 'FALSE'), ('yes', 'no')],
)
def test_columns_of_pandas_and_spreadsheets(root, out, yes, no):
    rows = [
        f'{p},{",".join(yes if k in v else no for k in range(3))},,'
        for p, v in LABELS.items()
    ]
    convert(write_csv(root, [*rows, ',,,,,', ','], 'path,cat,dog,emu,,'), out)
    assert converted(out) == EXPECTED


@pytest.mark.parametrize('cell', ['', '-1', '0.3', '2', 'maybe'])
def test_unknown_and_soft_labels_are_refused(root, out, cell):
    source = write_csv(root, ['a.jpg,1,0', f'b.jpg,{cell},1'], 'path,cat,dog')
    words = rf"soft labels are not .*csv:3: '{cell}' in the column 'cat'"
    with pytest.raises(ValueError, match=f'(?s){words}'):
        convert(source, out)


@pytest.mark.parametrize('delimiter', [',', ';', '\t', '|'])
@pytest.mark.parametrize(
    ('image', 'label'),
    [('path', 'labels'), ('Image Name', 'Tags'), ('file_name', 'Category')],
)
def test_delimiter_and_columns_are_found_and_said(
    root, out, delimiter, image, label
):
    mark = ',' if delimiter == ';' else ';'
    rows = [
        delimiter.join(['7', p, mark.join(v), 'train'])
        for p, v in EXPECTED.items()
    ]
    header = delimiter.join(['', image, label, 'split'])
    summary = convert(write_csv(root, rows, header), out)
    shown = 'tab' if delimiter == '\t' else repr(delimiter)
    told = f'delimiter {shown}, images in the column {image!r}, labels in '
    told += f'{label!r}, separated by {mark!r}; columns left out: split\n'
    assert told in summary
    assert converted(out) == EXPECTED


def test_columns_are_told_by_their_cells_or_by_name(root, out):
    rows = [f'x,{p},{";".join(v)},1' for p, v in EXPECTED.items()]
    source = write_csv(root, rows, 'a,b,c,d')
    with pytest.raises(ValueError, match=r'csv:1: .*among: a, c, d; name it'):
        convert(source, out)
    convert(source, out, table={'label_columns': ('c',)})
    assert converted(out) == EXPECTED
    told = r"csv:1: no column 'e'; there are: a, b, c, d"
    for option in ('path_column', 'label_columns', 'ignore_columns'):
        value = 'e' if option == 'path_column' else ('e',)
        with pytest.raises(ValueError, match=told):
            convert(source, out, output=['force'], table={option: value})
    left = {'ignore_columns': ('a', 'd')}
    convert(source, out, output=['force'], table=left)
    assert converted(out) == EXPECTED


def test_columns_of_classes_by_name(root, out):
    rows = [
        f'{p},{",".join(str(int(k in v)) for k in range(3))},1,3'
        for p, v in LABELS.items()
    ]
    source = write_csv(root, rows, 'path,cat,dog,emu,flipped,fold')
    asked = {'label_columns': ('cat', 'dog', 'emu')}
    summary = convert(source, out, table=asked)
    assert '3 columns of 0 and 1; columns left out: flipped, fold' in summary
    assert converted(out) == EXPECTED
    # One name means a class, too, where it is none of the labels.
    convert(source, out, output=['force'], table={'label_columns': ('dog',)})
    assert converted(out)['b.jpg'] == ['dog']
    assert converted(out)['a.jpg'] == []
    # Unasked, a column of 0 and 1 is a class, and one of others is not.
    asked = {'ignore_columns': ('flipped',)}
    summary = convert(source, out, output=['force'], table=asked)
    assert 'columns left out: fold' in summary
    assert converted(out) == EXPECTED


@pytest.mark.parametrize('row', ['0.jpg,cat', '0.PNG,cat;dog'])
def test_a_missing_header_is_told(root, out, row):
    source = write_csv(root, ['a.jpg,cat', 'b.jpg,dog'], row)
    with pytest.raises(ValueError, match=r'csv:1: .*as if it were data: 0'):
        convert(source, out)


def test_a_column_that_ends_as_labels_do(root, out):
    rows = [
        f'{p},{"|".join(v)},{i},1' for i, (p, v) in enumerate(EXPECTED.items())
    ]
    convert(write_csv(root, rows, 'Image Index,Finding Labels,Age,Id'), out)
    assert converted(out) == EXPECTED


def test_columns_of_one_name_are_united(root, out):
    rows = ['a.jpg,cat,dog', 'b.jpg,emu,']
    convert(write_csv(root, rows, 'path,label,label'), out)
    assert converted(out) == {'a.jpg': ['cat', 'dog'], 'b.jpg': ['emu']}


def test_columns_of_texts_are_united(root, out):
    rows = ['a.jpg,cat,dog', 'b.jpg,emu,', 'c.jpg,,']
    source = write_csv(root, rows, 'path,first,second')
    convert(source, out, table={'label_columns': ('first', 'second')})
    expected = {'a.jpg': ['cat', 'dog'], 'b.jpg': ['emu'], 'c.jpg': []}
    assert converted(out) == expected


def test_rows_of_absent_labels_are_no_labels(root, out):
    header = 'ImageID,Source,LabelName,Confidence'
    rows = ['a,human,cat,1', 'a,human,dog,0', 'b,human,dog,1', 'c,human,dog,0']
    source = write_csv(root, rows, header)
    with pytest.warns(UserWarning, match=r'3 images .* a\.jpg in place of a'):
        convert(source, out)
    assert converted(out) == {'a.jpg': ['cat'], 'b.jpg': ['dog'], 'c.jpg': []}
    write_csv(root, [*rows, 'd,machine,cat,0.7'], header)
    with pytest.raises(ValueError, match='confidences that are not 0 or 1'):
        convert(source, out, output=['force'])


@pytest.mark.parametrize(
    'encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be']
)
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
@pytest.mark.parametrize('first', ['', 'sep=;', '"sep=;"'])
def test_encodings_line_ends_and_the_line_of_excel(
    root, out, encoding, end, first
):
    lines = [first, 'path;labels', *(f'{p};Bär' for p in EXPECTED)]
    text = end.join(filter(None, lines))
    (root / 'x.csv').write_bytes(text.encode(encoding))
    convert(root / 'x.csv', out)
    assert converted(out) == {path: ['Bär'] for path in EXPECTED}


@pytest.mark.parametrize(
    ('encoding', 'name'), [('cp1252', 'Bär–'), ('latin-1', 'Bär')]
)
def test_windows_text_is_read_and_said(root, out, encoding, name):
    text = f'path,labels\na.jpg,cat\nb.jpg,{name}'
    (root / 'x.csv').write_bytes(text.encode(encoding))
    with pytest.warns(UserWarning, match=r'x\.csv:3: not UTF-8, .*Bär'):
        convert(root / 'x.csv', out)
    assert converted(out)['b.jpg'] == [name]


def test_a_workbook_is_refused(root, out):
    (root / 'x.csv').write_bytes(b'PK\3\4rest')
    with pytest.raises(ValueError, match=r'x\.csv: .*workbook; save it as'):
        convert(root / 'x.csv', out)


def change_coco(root, change):
    source, _ = make_coco(root)
    value = load(source)
    for key, entries in value.items():
        for entry in entries:
            change(key, entry)
    source.write_text(json.dumps(value))
    return source


def test_coco_with_other_ids(root, out):
    def change(key, entry):
        if key == 'annotations':
            del entry['id']
        for field in {'id', 'image_id', 'category_id'} & set(entry):
            entry[field] = f'n{entry[field]}'

    convert(change_coco(root, change), out, 'coco')
    assert converted(out) == EXPECTED


@pytest.mark.parametrize('beside', [True, False])
def test_lvis_names_images_by_url(root, out, beside):
    def change(key, entry):
        if key == 'images':
            name = entry.pop('file_name')
            entry['coco_url'] = f'http://images.example.org/train/{name}'
            if not beside:
                draw(root / 'train' / name)

    source = change_coco(root, change)
    if beside:
        with pytest.warns(UserWarning, match=r'4 images .*a\.jpg in place of'):
            convert(source, out, 'coco')
    else:
        convert(source, out, 'coco')
    prefix = '' if beside else 'train/'
    assert converted(out) == {prefix + p: v for p, v in EXPECTED.items()}


@pytest.mark.parametrize(
    ('filename', 'found'),
    [
        *(('before.jpg', 'img.jpg'), ('img', 'img.jpg')),
        *((r'C:\photos\img.jpg', 'img.jpg'), ('/home/me/img.jpg', 'img.jpg')),
        *(('img.jpg', 'img.png'), ('img.jpg', 'img.JPG')),
        ('img\xe9.jpg', 'imge\u0301.jpg'),  # Two forms of one letter.
    ],
)
def test_voc_images_are_found_by_the_stem(tmp_path, out, filename, found):
    for stem in ('img', 'other'):
        draw(tmp_path / 'voc' / found.replace('img', stem))
        named = filename.replace('img', stem).replace('before', f'{stem}-0')
        write_xml(tmp_path / 'voc', stem, named, ['cat'])
    with pytest.warns(UserWarning, match='2 images are not where') as caught:
        convert(tmp_path / 'voc', out, 'voc')
    assert len([w for w in caught if 'not where' in str(w.message)]) == 1
    assert list(converted(out)) == [found, found.replace('img', 'other')]


@pytest.mark.parametrize('encoding', ['GBK', 'gb2312', 'Big5', 'latin-1'])
def test_voc_in_the_encoding_that_it_declares(tmp_path, out, encoding):
    name = 'b\xfcffel' if encoding == 'latin-1' else '\u8c93'
    if encoding.lower().startswith('gb'):
        name = '\u732b'
    draw(tmp_path / 'src' / 'a.jpg')
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?><annotation><filename>'
        f'a.jpg</filename><object><name>{name}</name></object></annotation>'
    )
    (tmp_path / 'src' / 'a.xml').write_bytes(text.encode(encoding))
    convert(tmp_path / 'src', out, 'voc')
    assert converted(out) == {'a.jpg': [name]}


@pytest.mark.parametrize('part', ['test', 'Val'])
def test_a_column_of_the_parts_is_not_left_out_in_silence(root, out, part):
    rows = ['a.jpg,cat,train', f'b.jpg,dog,{part}']
    source = write_csv(root, rows, header='path,labels,set')
    told = "column 'set' is left out: rows of"
    with pytest.warns(UserWarning, match=told):
        convert(source, out)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', told)
        convert(source, out / 'again', table={'ignore_columns': ('set',)})


def test_a_column_that_parts_a_set_is_no_class(root, out):
    rows = ['a.jpg,1,0,True', 'b.jpg,1,1,False']
    source = write_csv(root, rows, header='path,cat,dog,is_valid')
    told = "column 'is_valid' is left out: rows of false and true come into"
    with pytest.warns(UserWarning, match=told):
        convert(source, out)
    assert converted(out) == {'a.jpg': ['cat'], 'b.jpg': ['cat', 'dog']}


def test_voc_names_that_fit_are_not_replaced(tmp_path, out, recwarn):
    draw(tmp_path / 'voc' / 'named.jpg')
    draw(tmp_path / 'voc' / 'stem.jpg')
    write_xml(tmp_path / 'voc', 'stem', 'named.jpg', ['cat'])
    convert(tmp_path / 'voc', out, 'voc')
    assert list(converted(out)) == ['named.jpg']
    assert not [w for w in recwarn if 'another name' in str(w.message)]
    write_xml(tmp_path / 'voc', 'gone', 'lost.jpg', ['cat'])
    with pytest.raises(ValueError, match=r'gone\.xml: .*lost\.jpg'):
        convert(tmp_path / 'voc', out, 'voc', output=['force'])


def test_images_is_the_folder_that_voc_names_refer_to(tmp_path, out):
    draw(tmp_path / 'voc' / 'images' / 'a.jpg')
    write_xml(tmp_path / 'voc' / 'Annotations', 'a', 'a.jpg', ['cat'])
    images = str(tmp_path / 'voc' / 'images')
    command = convert(tmp_path / 'voc', out, 'voc', images=images)
    assert command.endswith('data_prefix=../voc/images')
    assert converted(out) == {'a.jpg': ['cat']}


def test_blanks_and_files_of_the_system_in_folders(tmp_path, out):
    for name in ('cat/a.jpg', 'cat + dog/b.jpg', ' dog/c.jpg'):
        draw(tmp_path / 'sets' / name)
    for name in ('Thumbs.db', 'cat/Thumbs.db', 'cat/desktop.ini', '.DS_Store'):
        (tmp_path / 'sets' / name).touch()
    convert(tmp_path / 'sets', out, 'folders')
    assert converted(out) == {
        ' dog/c.jpg': ['dog'],
        'cat/a.jpg': ['cat'],
        'cat + dog/b.jpg': ['cat', 'dog'],
    }
