"""Sources in every format, small and as VOC and COCO publish theirs."""

import json
import runpy
from pathlib import Path

import numpy as np
from PIL import Image

from ltml_mm.datasets.converters.convert import convert_custom
from ltml_mm.datasets.converters.label_columns import TableOptions
from ltml_mm.datasets.converters.records import OutputOptions
from ltml_mm.datasets.published import COCO_CLASSES, VOC_CLASSES

TOOLS = Path(__file__).parents[2] / 'tools' / 'dataset_converters'
CLASSES = ('cat', 'dog', 'emu')
# Image names and labels that every format can express.
LABELS = {'a.jpg': (0,), 'b.jpg': (0, 1), 'c.jpg': (1, 2), 'd.jpg': (0, 1, 2)}


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (8, 6), (9, 8, 7)).save(path)


def make_images(root):
    for path in LABELS:
        draw(root / path)
    return root


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


def coco(labels, classes, start=0):
    """Instances JSON; the ids have gaps, as COCO's have."""
    ids = {path: start + 3 * n for n, path in enumerate(labels)}
    pairs = [(ids[path], k) for path, row in labels.items() for k in row]
    value = {
        'images': [{'id': i, 'file_name': p} for p, i in ids.items()],
        'annotations': [
            {
                'id': n,
                'image_id': image_id,
                'category_id': 2 * k + 1,
                'iscrowd': n % 2,
                'segmentation': [[0.5, 1.5, 2.5]],
            }
            for n, (image_id, k) in enumerate(pairs)
        ],
        'categories': [
            {'id': 2 * k + 1, 'name': name} for k, name in enumerate(classes)
        ][::-1],
    }
    return json.dumps(value)


def make_coco(root):
    (root / 'l.json').write_text(coco(LABELS, CLASSES))
    return root / 'l.json', LABELS


def write_xml(folder, stem, image, classes):
    """Every second object is difficult, and each has a part."""
    objects = ''.join(
        f'<object><name>{name}</name><difficult>{n % 2}</difficult>'
        '<part><name>head</name></part></object>'
        for n, name in enumerate(classes)
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{stem}.xml').write_text(
        f'<annotation><filename>{image}</filename>{objects}</annotation>'
    )


def make_voc(root):
    for n, (path, labels) in enumerate(LABELS.items()):
        write_xml(root, n, path, names(labels))
    return root, LABELS


def make_folders(root):
    moved = {}
    for path, labels in sorted(LABELS.items(), key=lambda i: names(i[1])):
        new = f'{"+".join(names(labels))}/{path}'
        draw(root / 'sets' / new)
        moved[new] = labels
    return root / 'sets', moved


def make_mmpretrain(root):
    value = {
        'metainfo': {'classes': CLASSES},
        'data_list': [
            {'img_path': p, 'gt_label': v[::-1]} for p, v in LABELS.items()
        ],
    }
    (root / 'l.json').write_text('\ufeff' + json.dumps(value))
    return root / 'l.json', LABELS


CASES = [
    *(('csv', make_csv), ('csv', make_columns), ('coco', make_coco)),
    *(('voc', make_voc), ('folders', make_folders)),
    ('mmpretrain', make_mmpretrain),
]


def convert(source, out, form='csv', output=(), table=None, **options):
    """Converts in this process; ``table`` holds options of tables."""
    output = OutputOptions(str(out), **dict.fromkeys(output, True))
    table = TableOptions(**table or {})
    return convert_custom(form, str(source), output, options=table, **options)


def load(path):
    return json.loads(Path(path).read_text())


def run_tool(monkeypatch, name, *args):
    """Runs a converter in this process and returns its exit status."""
    monkeypatch.setattr('sys.argv', [name, *map(str, args)])
    try:
        runpy.run_path(str(TOOLS / name), run_name='__main__')
    except SystemExit as end:
        return end.code
    return 0


def some_labels(num_images, num_classes):
    rng = np.random.default_rng(0)
    shares = np.geomspace(0.6, 0.05, num_classes)
    rows = rng.random((num_images, num_classes)) < shares
    return [np.flatnonzero(row).tolist() for row in rows]


def many(root):
    rows = [
        f'{i}.png,{";".join(names(v))}'
        for i, v in enumerate(some_labels(400, 3))
    ]
    for i in range(400):
        (root / f'{i}.png').touch()
    (root / 'many.csv').write_text('\n'.join(['path,labels', *rows]))
    return root / 'many.csv'


def write_voc(root, year, part, labels):
    """Writes the part of a VOCdevkit, with empty images."""
    for folder in ('ImageSets/Main', 'JPEGImages'):
        (root / year / folder).mkdir(parents=True, exist_ok=True)
    listing = root / year / 'ImageSets' / 'Main' / f'{part}.txt'
    listing.write_text(''.join(f'{i}\n' for i in labels))
    for image_id, row in labels.items():
        image = root / year / 'JPEGImages' / f'{image_id}.jpg'
        image.touch()
        found = [VOC_CLASSES[k] for k in row]
        write_xml(root / year / 'Annotations', image_id, image.name, found)


def write_coco(root, part, labels, start=6):
    """Writes a part of COCO, with empty images, and returns its labels."""
    rows = {f'{start + 3 * n:012d}.jpg': row for n, row in enumerate(labels)}
    for folder in ('annotations', part):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in rows:
        (root / part / name).touch()
    path = root / 'annotations' / f'instances_{part}.json'
    path.write_text(coco(rows, COCO_CLASSES, start))
    return {f'{part}/{name}': row for name, row in rows.items()}
