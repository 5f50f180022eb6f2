"""Trees of VOC and COCO annotations, for tests."""

import json
from pathlib import Path

import numpy as np

from ltml_mm.datasets.converters.records import OutputOptions
from ltml_mm.datasets.published import COCO_CLASSES, VOC_CLASSES


def write_voc(root, year, part, labels):
    """Writes the part of a VOCdevkit; every second object is difficult."""
    base = root / year
    for folder in ('ImageSets/Main', 'Annotations', 'JPEGImages'):
        (base / folder).mkdir(parents=True, exist_ok=True)
    listing = base / 'ImageSets' / 'Main' / f'{part}.txt'
    listing.write_text(''.join(f'{i}\n' for i in labels))
    for image_id, classes in labels.items():
        objects = ''.join(
            f'<object><name>{VOC_CLASSES[k]}</name><difficult>{n % 2}'
            '</difficult><part><name>head</name></part></object>'
            for n, k in enumerate(classes)
        )
        (base / 'Annotations' / f'{image_id}.xml').write_text(
            f'<annotation><filename>{image_id}.jpg</filename>{objects}'
            '</annotation>'
        )
        (base / 'JPEGImages' / f'{image_id}.jpg').touch()


def write_coco(root, part, labels, start=7):
    """Writes instances JSON; category ids have gaps, as COCO's have."""
    ids = [k * 2 + 1 for k in range(80)]
    (root / 'annotations').mkdir(parents=True, exist_ok=True)
    (root / part).mkdir()
    images = []
    annotations = []
    for n, classes in enumerate(labels):
        image_id = start + 3 * n
        name = f'{image_id:012d}.jpg'
        (root / part / name).touch()
        images.append({'id': image_id, 'file_name': name, 'height': 2})
        for k in classes:
            annotations.append(
                {
                    'id': len(annotations),
                    'image_id': image_id,
                    'category_id': ids[k],
                    'iscrowd': len(annotations) % 2,
                    'segmentation': [[0.5, 1.5, 2.5]],
                }
            )
    categories = [
        {'id': i, 'name': n} for i, n in zip(ids, COCO_CLASSES, strict=True)
    ]
    text = json.dumps(
        {
            'images': images,
            'annotations': annotations,
            'categories': categories[::-1],
        }
    )
    (root / 'annotations' / f'instances_{part}.json').write_text(text)
    return [str(image['id']) for image in images]


def some_labels(num_images, num_classes, seed=0):
    rng = np.random.default_rng(seed)
    shares = np.geomspace(0.6, 0.05, num_classes)
    rows = rng.random((num_images, num_classes)) < shares
    return [np.flatnonzero(row).tolist() for row in rows]


def split_file(tmp_path, ids):
    path = tmp_path / 'img_id.pkl'
    path.write_text('\n'.join(ids) + '\n')
    return str(path)


def out_of(tmp_path, name='voc_lt'):
    return OutputOptions(str(tmp_path / 'data' / name))


def load(path):
    return json.loads(Path(path).read_text())
