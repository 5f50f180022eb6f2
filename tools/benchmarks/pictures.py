"""Pictures of the size of VOC's, for benchmarks that load files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ltml_mm.files import write_json


def write_pictures(folder: Path, count: int) -> None:
    """Writes JPEG files of 500 x 375 pixels, and labels of 20 classes.

    Smooth colours with noise, some 85 kB each, as photographs have: of a
    smooth picture alone a decoder makes short work. ``train.json`` and
    ``test.json`` are equal.
    """
    rng = np.random.default_rng(0)
    data = []
    for i in range(count):
        colours = rng.integers(0, 256, (24, 32, 3), np.uint8)
        noise = rng.normal(0, 12, (188, 250, 3)).astype(np.float32)
        picture = cv2.resize(colours, (500, 375)) + cv2.resize(
            noise, (500, 375)
        )
        name = f'{i}.jpg'
        cv2.imwrite(str(folder / name), picture.clip(0, 255).astype(np.uint8))
        data.append({'img_path': name, 'gt_label': [i % 20]})
    metainfo = {'classes': [f'class {k}' for k in range(20)]}
    content = {'metainfo': metainfo, 'data_list': data}
    for split in ('train', 'test'):
        write_json(folder / f'{split}.json', content)
