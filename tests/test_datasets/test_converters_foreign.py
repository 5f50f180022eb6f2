"""Files as other tools write them: read, or refused with what to write."""

import json

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


@pytest.mark.parametrize('mark', [',', '|', '/', '+', '&', ' ', ' | '])
def test_labels_separated_otherwise_need_the_separator(root, out, mark):
    rows = [f'{p},"{mark.join(v)}"' for p, v in EXPECTED.items()]
    single = [f'{name}.jpg,{name}' for name in ('cat', 'dog', 'emu')]
    for row in single:
        draw(root / row.split(',')[0])
    source = write_csv(root, rows + single)
    with pytest.raises(ValueError, match=r"x\.csv:3: 'cat.*dog'") as caught:
        convert(source, out)
    assert '--separator' in str(caught.value)
    assert not out.exists()
    convert(source, out, separator=mark.strip() or mark)
    assert {p: v for p, v in converted(out).items() if p in EXPECTED} == (
        EXPECTED
    )
    convert(source, out, output=['force'], separator=';')
    assert mark.join(['cat', 'dog']) in converted(out)['b.jpg']


@pytest.mark.parametrize(
    'label', ["['cat', 'dog']", '[]', '{"choices": ["cat"]}', 'nan', 'None']
)
def test_lists_and_words_for_nothing_are_no_labels(root, out, label):
    cell = label.replace('"', '""')
    source = write_csv(root, ['a.jpg,cat', f'b.jpg,"{cell}"'])
    with pytest.raises(ValueError, match=r'several, or none .*: 1\n.*csv:3'):
        convert(source, out)


def test_names_with_marks_are_kept(root, out):
    source = write_csv(root, ['a.jpg,"hot dog, with mustard"', 'b.jpg,dog'])
    convert(source, out)
    assert converted(out)['a.jpg'] == ['hot dog, with mustard']


def test_a_separator_is_for_csv_and_not_empty(root, out):
    source, _ = make_coco(root)
    with pytest.raises(ValueError, match=r"is for csv .* ',' for coco"):
        convert(source, out, 'coco', separator=',')
    with pytest.raises(ValueError, match="not empty; got ''"):
        convert(make_csv(root)[0], out, separator='')


def test_rows_of_one_image_are_united(root, out):
    rows = [f'{p},{name}' for p, v in EXPECTED.items() for name in v]
    source = write_csv(root, [*sorted(rows, key=lambda r: r[::-1]), rows[0]])
    with pytest.warns(UserWarning, match='9 rows list 4 images') as caught:
        convert(source, out)
    assert len(caught) == 1
    assert converted(out) == EXPECTED


@pytest.mark.filterwarnings('ignore:.*are united')
def test_rows_with_and_without_a_label_contradict(root, out):
    convert(write_csv(root, ['a.jpg,', 'a.jpg,', 'b.jpg,dog']), out)
    assert converted(out) == {'a.jpg': [], 'b.jpg': ['dog']}
    source = write_csv(root, ['a.jpg,cat', 'a.jpg,'])
    with pytest.raises(ValueError, match=r'csv:3: a\.jpg stands at .*csv:2'):
        convert(source, out, output=['force'])


@pytest.mark.parametrize(
    ('yes', 'no'), [('1.0', '0.0'), ('True', 'False'), ('TRUE', 'FALSE')]
)
def test_columns_of_pandas_and_spreadsheets(root, out, yes, no):
    rows = [
        f'{p},{",".join(yes if k in v else no for k in range(3))},,'
        for p, v in LABELS.items()
    ]
    convert(write_csv(root, [*rows, ',,,,,', ','], 'path,cat,dog,emu,,'), out)
    assert converted(out) == EXPECTED


@pytest.mark.parametrize('cell', ['', '-1', '0.3', '2', 'yes'])
def test_unknown_and_soft_labels_are_refused(root, out, cell):
    source = write_csv(root, ['a.jpg,1,0', f'b.jpg,{cell},1'], 'path,cat,dog')
    words = rf"soft labels are not .*csv:3: '{cell}' in the column 'cat'"
    with pytest.raises(ValueError, match=f'(?s){words}'):
        convert(source, out)


def test_a_further_column_is_named(root, out):
    source = write_csv(root, ['a.jpg,cat,train'], 'path,labels,split')
    with pytest.raises(ValueError, match=r'csv:1: the header .*,labels,split'):
        convert(source, out)


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
        ('before.jpg', 'img.jpg'),
        ('img', 'img.jpg'),
        (r'C:\photos\img.jpg', 'img.jpg'),
        ('/home/me/img.jpg', 'img.jpg'),
        ('img.jpg', 'img.png'),
        ('img.jpg', 'img.JPG'),
    ],
)
def test_voc_images_are_found_by_the_stem(tmp_path, out, filename, found):
    for stem in ('img', 'other'):
        draw(tmp_path / 'voc' / found.replace('img', stem))
        named = filename.replace('img', stem).replace('before', f'{stem}-0')
        write_xml(tmp_path / 'voc', stem, named, ['cat'])
    with pytest.warns(UserWarning, match='2 images are not where') as caught:
        convert(tmp_path / 'voc', out, 'voc')
    assert len(caught) == 1
    paths = [found, found.replace('img', 'other')]
    assert list(converted(out)) == paths


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
