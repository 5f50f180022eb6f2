"""The formats of labels by name, and the one that a path holds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ltml_mm.datasets.converters import json_formats, label_columns
from ltml_mm.datasets.converters.image_files import list_folder
from ltml_mm.datasets.converters.records import Example, ImageSet, Problems
from ltml_mm.datasets.converters.xml_formats import read_cvat, read_voc
from ltml_mm.datasets.images import EXTENSIONS


def read_folders(path: str) -> ImageSet:
    """Reads a folder whose sub-folders are named after label sets.

    ``cat+dog/b.jpg`` is an image with two labels. Hidden files and those
    that Windows makes are left aside; anything else that is not an image is
    an error.
    """
    problems = Problems()
    examples = []
    for folder in list_folder(path):
        if not folder.is_dir():
            fault = 'belongs in a folder named after its labels'
            problems.add('files outside label folders', str(folder), fault)
            continue
        names = label_columns.split_labels(
            folder.name, '+', str(folder), problems
        )
        for file in list_folder(folder):
            if file.suffix.lower() not in EXTENSIONS or file.is_dir():
                fault = f'not a file in {", ".join(EXTENSIONS)}'
                if file.is_dir():
                    part = f'custom.py folders {folder} reads one part'
                    fault = f'a folder; {part}, --test FOLDER another'
                problems.add('entries that are not images', str(file), fault)
            image = f'{folder.name}/{file.name}'
            examples.append(Example(image, names, str(file)))
    problems.check()
    return ImageSet(examples, (), path, path)


READERS: dict[str, Callable[..., ImageSet]] = {
    'csv': label_columns.read_csv,
    'coco': json_formats.read_coco,
    'voc': read_voc,
    'folders': read_folders,
    'mmpretrain': json_formats.read_mmpretrain,
    'huggingface': label_columns.read_huggingface,
    'label_studio': json_formats.read_label_studio,
    'fiftyone': json_formats.read_fiftyone,
    'cvat': read_cvat,
    'datumaro': json_formats.read_datumaro,
}
#: The formats whose readers take options of tables.
TABLES = ('csv', 'huggingface', 'label_studio')
#: The formats of JSON objects by the keys that tell them.
KEYS = {
    'mmpretrain': {'metainfo', 'data_list'},
    'coco': {'images', 'annotations', 'categories'},
    'datumaro': {'items', 'categories'},
    'fiftyone': {'classes', 'labels'},
}
#: The formats of files by their extension; JSON is told by its content.
EXTENSION_FORMATS = {
    '.csv': 'csv',
    '.tsv': 'csv',
    '.txt': 'csv',
    '.jsonl': 'huggingface',
    '.xml': 'cvat',
}


def find_format(path: str) -> tuple[str, str]:
    """Finds out what a file holds, or a folder of images and annotations.

    Returns:
        tuple: One of :data:`READERS`, and the file or folder to read.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: It may be of several formats, or of none.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f'no such file or folder: {path}')
    found = _folder_formats(path) if os.path.isdir(path) else []
    if not os.path.isdir(path):
        form = _file_format(path)
        found = [(form, path)] if form else []
    if len(found) == 1:
        return found[0]
    told = ', '.join(f'{form} {file}' for form, file in found)
    told = f'may be one of {told}' if found else 'holds no known format'
    raise ValueError(
        f'{path}: {told}; say which: custom.py FORMAT PATH with one of '
        f'{", ".join(READERS)}'
    )


def _file_format(path: str) -> str | None:
    extension = os.path.splitext(path)[1].lower()
    if extension != '.json':
        return EXTENSION_FORMATS.get(extension)
    try:
        content: Any = json.loads(Path(path).read_text('utf-8-sig'))
    except (RecursionError, ValueError) as error:
        raise ValueError(f'{path}: not valid JSON: {error}') from error
    if isinstance(content, list):
        return 'label_studio'
    fitting = [form for form, keys in KEYS.items() if keys <= {*content}]
    return fitting[0] if fitting else None


def _folder_formats(path: str) -> list[tuple[str, str]]:
    """Lists the formats that a folder may hold, and what to read."""
    entries = list_folder(path)
    files = [p for p in entries if p.is_file()]
    folders = [p for p in entries if p.is_dir()]
    names = {p.name.lower() for p in files}
    if {'metadata.csv', 'metadata.jsonl'} & names:
        return [('huggingface', path)]
    if 'annotations.xml' in names:
        return [('cvat', path)]
    # Other files may lie beside; what a conversion wrote is none of them.
    written = {'train.json', 'val.json', 'test.json', 'split.json'}
    written = written if 'split.json' in names else set()
    found = [
        (form, str(file))
        for file in files
        if file.name not in {*written, 'data.json'}
        and file.suffix.lower() in ('.csv', '.tsv', '.json', '.jsonl')
        and (form := _file_format(str(file)))
    ]
    below = [p for p in folders if p.name.lower() == 'annotations']
    for folder in (Path(path), *below):
        inside = [p for p in list_folder(folder) if p.is_file()]
        if any(p.suffix.lower() == '.xml' for p in inside):
            found.append(('voc', path))
        elif folder in below:
            found += [
                (form, str(p))
                for p in inside
                if p.suffix.lower() == '.json'
                and (form := _file_format(str(p)))
            ]
    if not found and folders and not files:
        images = all(
            p.suffix.lower() in EXTENSIONS
            for folder in folders
            for p in list_folder(folder)
        )
        return [('folders', path)] * images
    return found
