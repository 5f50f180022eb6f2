"""What annotation tools export, found by itself, and where images are."""

import json

import own_data
import pytest

EXPECTED = {
    path: own_data.names(labels) for path, labels in own_data.LABELS.items()
}
#: Cat is nobody's first label, so that the order of classes is the file's.
ORDER = ['emu', 'cat', 'dog']


def converted(out):
    value = own_data.load(out / 'train.json')
    classes = value['metainfo']['classes']
    return {
        entry['img_path']: [
            name for name in EXPECTED['d.jpg'] if name in labels
        ]
        for entry in value['data_list']
        if (labels := [classes[k] for k in entry['gt_label']]) is not None
    }


def stem(path):
    return path.removesuffix('.jpg')


def result(labels, kind='choices', **more):
    return {'type': kind, 'value': {kind: labels, **more}, 'from_name': 'a'}


def label_studio(root):
    tasks = []
    for number, (path, labels) in enumerate(EXPECTED.items()):
        url = (
            f'/data/upload/3/0a1b2c3d-{path}',
            f'/data/local-files/?d=photos%2F{path}',
            f's3://bucket/photos/{path}',
            f'https://example.org/a%20b/{path}?sig=1',
        )[number]
        first = [result(labels[:1], 'rectanglelabels', x=1.5, width=20.25)]
        tasks.append(
            {
                'id': number,
                'data': {'image': url, 'note': 'hm'},
                'annotations': [
                    {'id': 1, 'result': [*first, result(labels[1:])]},
                    {'result': [result(['gnu'])], 'was_cancelled': True},
                ],
                'predictions': [{'result': [result(['gnu'])]}],
            }
        )
    return tasks


def test_tasks_without_an_annotation_are_left_out(root, out):
    tasks = label_studio(root)
    tasks[0]['annotations'] = []
    del tasks[1]['annotations'][0]  # The other one was cancelled.
    tasks[2]['annotations'] = [{'result': []}]  # Submitted: has no label.
    path = root / 'tasks.json'
    path.write_text(json.dumps(tasks))
    own_data.convert(path, out, 'label_studio')
    (empty, *others) = [*EXPECTED][2:]
    assert converted(out) == {
        empty: [],
        **{other: EXPECTED[other] for other in others},
    }
    split = (out / 'split.json').read_text()
    assert split.count('skipped or not annotated') == 2


def label_studio_min(root):
    return [
        {
            'image': f'/data/upload/3/0a1b2c3d-{path}',
            'id': number,
            'choice': labels[0] if len(labels) == 1 else {'choices': labels},
            **dict(annotator=1, annotation_id=7, lead_time=3.5),
            **dict.fromkeys(('created_at', 'updated_at'), '2026'),
        }
        for number, (path, labels) in enumerate(EXPECTED.items())
    ]


def fiftyone(root):
    own_data.make_images(root / 'data')
    labels = {
        stem(path): [ORDER.index(name) for name in own]
        for path, own in EXPECTED.items()
    }
    return {'classes': ORDER, 'labels': labels}


def fiftyone_details(root):
    """Without classes, with confidences, and one label by itself."""
    own_data.make_images(root / 'data')
    labels = {
        stem(path): [
            {'label': name, 'confidence': 0.5, 'attributes': {'a': 1.5}}
            for name in own
        ]
        for path, own in EXPECTED.items()
    }
    return {'classes': None, 'labels': {**labels, 'a': {'label': 'cat'}}}


def fiftyone_manifest(root):
    paths = {stem(path): f'/home/me/photos/{path}' for path in EXPECTED}
    (root / 'data.json').write_text(json.dumps(paths))
    labels = {stem(path): own for path, own in EXPECTED.items()}
    return {'classes': ORDER, 'labels': labels}


def datumaro(root):
    own_data.make_images(root / 'images' / 'default')
    items = [
        {
            'id': stem(path),
            'annotations': [
                {'id': 0, 'type': 'label', 'label_id': ORDER.index(name)}
                for name in own
            ],
            'image': {'path': path, 'size': [6, 8]},
        }
        for path, own in EXPECTED.items()
    ]
    labels = [{'name': name, 'parent': ''} for name in ORDER]
    categories = {'label': {'labels': labels}, 'points': {'items': []}}
    return {'info': {}, 'categories': categories, 'items': items}


def cvat():
    """Tags, and shapes with attributes."""
    labels = ''.join(f'<label><name>{n}</name></label>' for n in ORDER)
    images = ''.join(
        f'<image id="{i}" name="{path}" width="8" height="6">'
        + ''.join(
            f'<{tag} label="{name}"><attribute name="x">1</attribute></{tag}>'
            for name in own
            for tag in ('tag', 'box')
        )
        + '</image>'
        for i, (path, own) in enumerate(EXPECTED.items())
    )
    meta = f'<meta><task><labels>{labels}</labels></task></meta>'
    return f'<annotations>{meta}{images}</annotations>'


@pytest.mark.parametrize(
    ('name', 'build', 'form'),
    [
        ('export.json', label_studio, 'label_studio'),
        ('export.json', label_studio_min, 'label_studio'),
        ('labels.json', fiftyone, 'fiftyone'),
        ('labels.json', fiftyone_details, 'fiftyone'),
        ('labels.json', fiftyone_manifest, 'fiftyone'),
        ('annotations/default.json', datumaro, 'datumaro'),
    ],
)
@pytest.mark.parametrize('named', [True, False])
def test_json_exports(root, out, name, build, form, named):
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(build(root)))
    if build in (fiftyone, fiftyone_details, datumaro):
        for image in EXPECTED:
            (root / image).unlink()
    folder = root if build is not label_studio_min else path
    summary = own_data.convert(
        path if named else folder, out, form if named else None
    )
    assert f'{path} read as {form}\n' in summary
    assert converted(out) == EXPECTED
    classes = own_data.load(out / 'train.json')['metainfo']['classes']
    is_ordered = build in (fiftyone, fiftyone_manifest, datumaro)
    assert classes == (ORDER if is_ordered else sorted(ORDER))


@pytest.mark.parametrize('folder', ['', 'images'])
def test_cvat(root, tmp_path, out, folder):
    home = tmp_path / 'task'
    own_data.make_images(home / folder)
    (home / 'annotations.xml').write_text(cvat())
    for source in (home, home / 'annotations.xml'):
        own_data.convert(source, out, None, ['force'])
        assert converted(out) == EXPECTED
    classes = own_data.load(out / 'train.json')['metainfo']['classes']
    assert classes == ORDER
    point = '<label><name>1</name><parent>hand</parent></label></labels>'
    (home / 'annotations.xml').write_text(cvat().replace('</labels>', point))
    own_data.convert(home, out, None, ['force'])
    assert own_data.load(out / 'train.json')['metainfo']['classes'] == ORDER
    video = cvat().replace('image', 'track')
    (home / 'annotations.xml').write_text(video)
    with pytest.raises(ValueError, match=r'xml: .*"CVAT for images 1\.1"'):
        own_data.convert(home, out, 'cvat', ['force'])


def test_cvat_project(tmp_path, out):
    """Of two subsets with images of the same names."""
    head, images = cvat().removesuffix('</annotations>').split('<image', 1)
    for subset in ('Train', 'Validation'):
        own_data.make_images(tmp_path / 'images' / subset)
        part = f'<image{images}'
        head += part.replace('<image', f'<image subset="{subset}"')
    (tmp_path / 'annotations.xml').write_text(f'{head}</annotations>')
    own_data.convert(tmp_path, out, None)
    assert converted(out) == {
        f'{subset}/{path}': own
        for subset in ('Train', 'Validation')
        for path, own in EXPECTED.items()
    }


def as_jsonl(value):
    rows = [{'file_name': p, value: own} for p, own in EXPECTED.items()]
    return '\n'.join(map(json.dumps, rows))


def as_flags(_):
    rows = [
        {'file_name': p, **{name: name in own for name in sorted(ORDER)}}
        for p, own in EXPECTED.items()
    ]
    return '\n'.join(map(json.dumps, rows)) + '\n'


def as_objects(_):
    rows = [
        {'file_name': p, 'objects': {'categories': own, 'bbox': [[1.5]]}}
        for p, own in EXPECTED.items()
    ]
    return '\n'.join(map(json.dumps, rows))


def as_csv(value):
    rows = [f'"{own}",{p}' for p, own in EXPECTED.items()]
    return '\n'.join([f'{value},image_file_name', *rows])


@pytest.mark.parametrize(
    ('name', 'build', 'value'),
    [
        ('metadata.jsonl', as_jsonl, 'labels'),
        ('metadata.jsonl', as_jsonl, 'what_is_seen'),
        ('metadata.jsonl', as_flags, None),
        ('metadata.jsonl', as_objects, None),
        ('metadata.csv', as_csv, 'labels'),
        ('metadata.csv', as_csv, 'what_is_seen'),
    ],
)
def test_image_folders_of_hugging_face(root, out, name, build, value):
    (root / name).write_text(build(value))
    for source in (root, root / name):
        summary = own_data.convert(source, out, 'huggingface', ['force'])
        assert converted(out) == EXPECTED
    summary = own_data.convert(root, out, None, ['force'])
    assert f'{root} read as huggingface\n' in summary
    assert converted(out) == EXPECTED


def test_a_folder_of_parts_names_them(root, out):
    for part in ('train', 'test'):
        (root / part).mkdir()
        (root / part / 'metadata.jsonl').write_text(as_jsonl('labels'))
    told = r'there are .*test/metadata\.jsonl, .*train/metadata\.jsonl'
    with pytest.raises(ValueError, match=told):
        own_data.convert(root, out, 'huggingface')


@pytest.mark.parametrize(
    ('form', 'value', 'words'),
    [
        ('label_studio', {}, 'must be a list of tasks'),
        ('label_studio', [1], 'must be a list of tasks'),
        ('label_studio', [], 'is empty'),
        ('label_studio', [{'annotations': []}], r'task 0: has no object "da'),
        ('label_studio', [{'data': {}, 'annotations': []}], 'task 0: "data"'),
        ('fiftyone', {'labels': []}, 'must be a list, "labels" objects'),
        ('fiftyone', {'classes': ['a'], 'labels': {'x': 1}}, r"\['x'\]: lab"),
        ('fiftyone', {'classes': ['a'], 'labels': {'x': 0.5}}, 'not a label'),
        ('datumaro', {'items': []}, 'needs "items" and "categories"'),
        ('huggingface', {'a': 1}, 'metadata|file_name'),
    ],
)
def test_bad_exports_are_named(root, out, form, value, words):
    path = root / ('x.jsonl' if form == 'huggingface' else 'x.json')
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=rf'x\.json.*(?:{words})'):
        own_data.convert(path, out, form)


@pytest.mark.parametrize(('form', 'make'), own_data.CASES)
def test_a_format_is_found(root, out, form, make):
    source, expected = make(root)
    assert f'{source} read as {form}\n' in own_data.convert(source, out, None)
    assert len(own_data.load(out / 'train.json')['data_list']) == len(expected)


def test_an_ambiguous_or_unknown_source_asks_for_the_format(root, out):
    with pytest.raises(ValueError, match=r'src: holds no known format'):
        own_data.convert(root, out, None)
    own_data.make_csv(root)
    own_data.convert(root, out, None)
    own_data.make_coco(root)
    told = r'src: may be one of csv .*l\.csv, coco .*l\.json; say which'
    with pytest.raises(ValueError, match=told):
        own_data.convert(root, out, None, ['force'])
    own_data.convert(root / 'l.csv', root, None, test=0.5)
    with pytest.raises(ValueError, match=told):
        own_data.convert(root, out, None, ['force'])
    (root / 'x.json').write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r'x\.json: holds no known'):
        own_data.convert(root / 'x.json', out, None)
    with pytest.raises(FileNotFoundError, match=r'no such .*gone'):
        own_data.convert(root / 'gone', out, None)


def test_coco_of_fiftyone_and_roboflow(root, out):
    """Images in ``data``, and a category that only heads the others."""
    source, _ = own_data.make_coco(root)
    value = own_data.load(source)
    for entry in value['categories']:
        entry['supercategory'] = 'animals'
    head = {'id': 0, 'name': 'animals', 'supercategory': 'none'}
    value['categories'].append(head)
    for entry in value['annotations']:
        del entry['segmentation']
    (root / 'labels.json').write_text(json.dumps(value))
    source.unlink()
    (root / 'data').mkdir()
    for path in EXPECTED:
        (root / path).rename(root / 'data' / path)
    summary = own_data.convert(root, out, None)
    assert f'images in {root / "data"}\n' in summary
    assert 'categories that only head others left out: animals\n' in summary
    assert converted(out) == EXPECTED


@pytest.mark.parametrize(
    'listed',
    [
        *(r'C:\photos\{}', r'\\server\share\{}', '/home/me/photos/{}'),
        *('https://example.org/photos/{}', r'photos\{}', 'photos/{}'),
    ],
)
def test_paths_of_other_machines(tmp_path, out, listed):
    root = tmp_path / 'src'
    for path in EXPECTED:
        own_data.draw(root / 'photos' / path.replace('.jpg', '.JPG'))
    if 'photos' in listed:  # of two files the one in a folder of that name
        own_data.draw(root / 'other' / 'b.jpg')
    rows = [f'{listed.format(p)},{v[0]}' for p, v in EXPECTED.items()]
    (root / 'x.csv').write_text('\n'.join(['path,labels', *rows]))
    with pytest.warns(UserWarning, match=r'4 images .*photos/a\.JPG in place'):
        own_data.convert(root / 'x.csv', out)
    found = list(converted(out))
    assert found == [f'photos/{p.replace("jpg", "JPG")}' for p in EXPECTED]


def test_a_name_that_two_files_have_is_not_chosen(tmp_path, out):
    root = tmp_path / 'src'
    for folder in ('one', 'two'):
        own_data.draw(root / folder / 'a.jpg')
    (root / 'x.csv').write_text('path,labels\n/home/me/a.jpg,cat')
    told = r'2 of that name: one/a\.jpg, two/a\.jpg'
    with pytest.raises(ValueError, match=told):
        own_data.convert(root / 'x.csv', out)


@pytest.mark.parametrize('folder', ['../photos', '..', 'photos'])
@pytest.mark.parametrize('listed', ['{}', r'E:\old\{}'])
def test_the_folder_of_missing_images_is_suggested(
    tmp_path, out, folder, listed
):
    if folder == 'photos' and listed != '{}':
        pytest.skip('found by its name')
    root = tmp_path / 'src'
    for path in EXPECTED:
        own_data.draw(root / folder / path)
    (root).mkdir(exist_ok=True)
    rows = [f'{listed.format(p)},{v[0]}' for p, v in EXPECTED.items()]
    (root / 'x.csv').write_text('\n'.join(['path,labels', *rows]))
    told = r'missing images .*: 4\n(?s:.*)\n4 of 4 are in (.*): pass --images '
    with pytest.raises(ValueError, match=told) as caught:
        own_data.convert(root / 'x.csv', out)
    images = str(caught.value).rpartition('--images ')[2]
    assert (root / folder).resolve().samefile(images)
    with pytest.raises(ValueError, match=r'all 4 images are missing in .*\n4'):
        own_data.convert(root / 'x.csv', out, output=['skip_missing'])
    own_data.convert(root / 'x.csv', out, images=images)
    assert list(converted(out)) == list(EXPECTED)


def test_the_folder_of_ids_without_an_extension_is_suggested(tmp_path, out):
    root = tmp_path / 'src'
    own_data.draw(root / 'photos' / 'a.jpg')
    (root / 'x.csv').write_text('id,labels\na,cat\nb,cat')
    with pytest.raises(ValueError, match=r'1 of 2 .*--images .*photos$'):
        own_data.convert(root / 'x.csv', out)


def test_exports_with_paths_of_another_machine(root, tmp_path, out):
    """The annotations in a folder beside that of the images."""
    source, _ = own_data.make_coco(root)
    value = own_data.load(source)
    for entry in value['images']:
        entry['file_name'] = f'/home/me/{entry["file_name"]}'
    (tmp_path / 'annotations').mkdir()
    path = tmp_path / 'annotations' / 'instances_default.json'
    path.write_text(json.dumps(value))
    root.rename(tmp_path / 'images')
    with pytest.warns(UserWarning, match='4 images are not where'):
        own_data.convert(tmp_path, out, None)
    assert converted(out) == EXPECTED


def test_missing_and_broken_images_are_left_out_and_listed(root, out):
    source, _ = own_data.make_csv(root)
    (root / 'a.jpg').unlink()
    (root / 'b.jpg').write_text('no image')
    with pytest.raises(ValueError, match='do not decode'):
        own_data.convert(source, out, output=['skip_missing', 'check_images'])
    summary = own_data.convert(
        source, out, output=['skip_missing', 'skip_bad']
    )
    assert list(converted(out)) == ['c.jpg', 'd.jpg']
    left = own_data.load(out / 'split.json')['left_out']
    assert [entry.split(':')[0] for entry in left] == [
        'missing',
        'does not decode',
    ]
    assert 'left out (all in split.json): 2: missing: a.jpg, ' in summary
    own_data.convert(source, out, output=['force', 'skip_missing'], test=0.4)
    assert len(own_data.load(out / 'split.json')['left_out']) == 1


def test_voc_in_other_words(tmp_path, out):
    """Lower-case folders, an upper-case extension of the annotation."""
    home = tmp_path / 'voc'
    own_data.draw(home / 'images' / 'a.JPG')
    own_data.write_xml(home / 'annotations', 'a', r'D:\x\a.jpg', ['cat'])
    (home / 'annotations' / 'a.xml').rename(home / 'annotations' / 'a.XML')
    own_data.convert(home, out, None)
    assert list(converted(out)) == ['a.JPG']
