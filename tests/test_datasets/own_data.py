"""Sources of one's own data in every format, for tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ltml_mm.datasets.converters.convert import convert_custom
from ltml_mm.datasets.converters.records import OutputOptions

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


def make_images(root):
    for path in LABELS:
        draw(root / path)
    return root


def convert(source, out, form='csv', output=(), **options):
    output = OutputOptions(str(out), **dict.fromkeys(output, True))
    return convert_custom(form, str(source), output, **options)


def load(path):
    return json.loads(Path(path).read_text())


def many(root, num_images=400):
    rng = np.random.default_rng(0)
    lines = ['path,labels']
    for i in range(num_images):
        (root / f'{i}.png').touch()
        labels = np.flatnonzero(rng.random(3) < (0.8, 0.4, 0.1))
        lines.append(f'{i}.png,{";".join(names(labels))}')
    (root / 'many.csv').write_text('\n'.join(lines))
    return root / 'many.csv'
