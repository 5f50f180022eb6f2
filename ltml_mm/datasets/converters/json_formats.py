"""Reads JSON: COCO, MMPretrain, Label Studio, FiftyOne and Datumaro."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from pycocotools.coco import COCO

from ltml_mm.datasets.annotations import load_json, read_annotations
from ltml_mm.datasets.converters import label_columns
from ltml_mm.datasets.converters.image_files import rooted
from ltml_mm.datasets.converters.records import Example, ImageSet, Problems
from ltml_mm.datasets.converters.tables import table_of
from ltml_mm.datasets.images import EXTENSIONS

# The keys of COCO's JSON that are read. The rest, most of all the outlines
# of the objects, is dropped while the file is parsed.
COCO_KEYS = {'images', 'file_name', 'coco_url', 'categories', 'name', 'id'}
COCO_KEYS |= {'annotations', 'image_id', 'category_id', 'supercategory'}
ENTRIES = 'entries that cannot be read'


def read_mmpretrain(path: str) -> ImageSet:
    """Reads MMPretrain's multi-label JSON as the dataset reads it."""
    # Paths that leave the folder are judged with those of all formats.
    metainfo, entries = read_annotations(path, allow_outside=True)
    classes = tuple(metainfo['classes'])
    examples = []
    for index, entry in enumerate(entries):
        names = tuple(classes[k] for k in entry['gt_label'])
        place = f'{path}: entry {index} of "data_list"'
        examples.append(Example(entry['img_path'], names, place))
    return ImageSet(examples, classes, os.path.dirname(path) or '.', path)


def read_coco(path: str) -> ImageSet:
    """Reads COCO's instances JSON; the classes are sorted by their ids.

    An image is positive for every class that it has an object of, crowds
    included. Ids are integers or texts. Where images have no ``file_name``,
    as in LVIS, the last two parts of ``coco_url`` are the path, or else the
    last. A category without an object that only heads others, as Roboflow
    writes it, is no class.
    """
    content = load_json(path, COCO_KEYS)
    for key in ('images', 'categories', 'annotations'):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f'{path}: "{key}" must be a list')
        content[key] = [e if isinstance(e, dict) else {} for e in entries]
    images = _coco_names(path, content, 'images', 'file_name')
    categories = _coco_names(path, content, 'categories', 'name')
    problems = Problems()
    for number, entry in enumerate(content['annotations']):
        for field, ids in (('image_id', images), ('category_id', categories)):
            value = entry.get(field)
            if type(value) not in (int, str) or value not in ids:
                place = f'{path}: annotations[{number}]'
                told = f'{field} {_other_id(value, ids)}'
                problems.add('ids that their list lacks', place, told)
        # The index asks for the ids of objects, which no label needs.
        entry['id'] = number
    problems.check()
    index = COCO()
    index.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        index.createIndex()
    examples = []
    for image_id, image in images.items():
        found = (entry['category_id'] for entry in index.imgToAnns[image_id])
        names = tuple(categories[key].path for key in found)
        examples.append(image._replace(names=names))
    order = sorted(categories, key=lambda key: (isinstance(key, str), key))
    classes = [categories[key].path for key in order]
    heads = {
        str(entry.get('supercategory')) for entry in content['categories']
    }
    shown = {name for example in examples for name in example.names}
    empty = [n for n in classes if n in heads and n not in shown]
    notes: tuple[str, ...] = ()
    if empty and len(empty) < len(classes):
        classes = [name for name in classes if name not in empty]
        told = f'categories that only head others left out: {", ".join(empty)}'
        notes = (told,)
    return rooted(ImageSet(examples, tuple(classes), '', path, notes))


def _other_id(value: Any, ids: Iterable[int | str]) -> str:
    """Describes an id that a list lacks, and one that looks the same."""
    kinds = {str: 'text', int: 'number', float: 'number'}
    texts = {str(value), str(value).removesuffix('.0')}
    told = json.dumps(value)
    near = [known for known in ids if str(known) in texts]
    if not near or type(value) not in kinds:
        return told
    other = f'the {kinds[type(near[0])]} {json.dumps(near[0])}'
    return f'is the {kinds[type(value)]} {told}, the list has {other}'


def _coco_names(
    path: str, content: dict, key: str, field: str
) -> dict[int | str, Example]:
    """Returns the entries of a list by their ids, each with its name."""
    problems = Problems()
    found: dict[int | str, Example] = {}
    for index, entry in enumerate(content[key]):
        place = f'{path}: {key}[{index}]'
        name, number, url = map(entry.get, (field, 'id', 'coco_url'))
        others: tuple[str, ...] = ()
        if name is None and isinstance(url, str):
            parts = url.split('/')
            name, others = '/'.join(parts[-2:]), (parts[-1],)
        if type(number) not in (int, str) or not isinstance(name, str):
            fault = f'needs an "id", a number or a text, and a text "{field}"'
            problems.add('bad entries', place, fault)
        elif number in found:
            problems.add('ids that repeat', place, repr(number))
        else:
            found[number] = Example(name, (), place, others)
    problems.check()
    return found


def read_label_studio(
    path: str, options: label_columns.TableOptions = label_columns.FIND_ALL
) -> ImageSet:
    """Reads Label Studio's export, JSON or JSON-MIN.

    An image has the labels of all its annotations but those that were
    cancelled: choices, taxonomies and the labels of regions. Predictions do
    not count.
    """
    tasks = load_json(path)
    if not isinstance(tasks, list) or not all(
        isinstance(task, dict) for task in tasks
    ):
        raise ValueError(f'{path}: must be a list of tasks')
    places = [f'{path}: task {index}' for index in range(len(tasks))]
    if not any({'annotations', 'completions'} & {*task} for task in tasks):
        records = list(zip(places, tasks, strict=True))
        images = label_columns.read_table(table_of(path, records), options)
        examples = [
            e._replace(others=_uploaded(e.path)) for e in images.examples
        ]
        return rooted(images._replace(examples=examples))
    problems = Problems()
    examples, left_out = [], []
    for place, task in zip(places, tasks, strict=True):
        with problems.caught(ENTRIES, place, AttributeError, TypeError):
            image = _task_image(task.get('data'), options.path_column)
            names = _task_labels(task)
            if not _is_annotated(task):
                left_out.append(f'skipped or not annotated: {image}')
                continue
            examples.append(Example(image, names, place, _uploaded(image)))
    problems.check()
    return rooted(ImageSet(examples, (), '', path, left_out=tuple(left_out)))


def _is_annotated(task: Mapping[str, Any]) -> bool:
    # An empty annotation that was submitted says that there is no label.
    given = task.get('annotations', task.get('completions')) or []
    return any(not annotation.get('was_cancelled') for annotation in given)


def _task_image(data: Any, column: str | None) -> str:
    if not isinstance(data, dict):
        raise ValueError('has no object "data"')
    found: list[Any]
    if column is not None:
        found = [data.get(column)]
    else:
        texts = [v for v in data.values() if isinstance(v, str)]
        ends = [v for v in texts if v.lower().endswith(EXTENSIONS)]
        found = ends or [data.get('image')]
    if len(found) != 1 or not isinstance(found[0], str):
        raise ValueError(
            f'"data" must name one image, in one of {", ".join(data)}; '
            'choose it: --path-column NAME'
        )
    return found[0]


def _task_labels(task: Mapping[str, Any]) -> tuple[str, ...]:
    annotations = task.get('annotations', task.get('completions')) or []
    return tuple(
        str(label)
        for annotation in annotations
        if not annotation.get('was_cancelled')
        for result in annotation.get('result') or []
        for label in label_columns.labels_in(result.get('value') or {})
    )


def _uploaded(image: str) -> tuple[str, ...]:
    """Names the file of an upload, with and without the tool's prefix."""
    name = unquote(image.split('?d=')[-1].split('?')[0]).split('/')[-1]
    bare = re.sub(r'^[0-9a-f]{8}-', '', name)
    return tuple(n for n in dict.fromkeys((name, bare)) if n and n != image)


def read_fiftyone(path: str) -> ImageSet:
    """Reads FiftyOne's ``labels.json`` of classifications or detections.

    It maps an image, its path in ``data`` without the extension, to a label,
    to several, or to none. Labels are names, or indices of ``classes``.
    """
    content = load_json(path)
    classes = content.get('classes') or []
    found = content.get('labels')
    if not isinstance(classes, list) or not isinstance(found, dict):
        raise ValueError(f'{path}: "classes" must be a list, "labels" objects')
    manifest: dict[str, str] = {}
    listing = os.path.join(os.path.dirname(path), 'data.json')
    if os.path.isfile(listing):
        manifest = load_json(listing)
    names = [str(name) for name in classes]
    problems = Problems()
    examples = []
    for image, value in found.items():
        place = f'{path}: labels[{image!r}]'
        with problems.caught(ENTRIES, place):
            own = _by_index(label_columns.labels_in(value), names)
            listed = str(manifest.get(image, image))
            examples.append(Example(listed, own, place))
    problems.check()
    return rooted(ImageSet(examples, tuple(names), '', path), 'data')


def _by_index(
    labels: Iterable[str | int], names: list[str]
) -> tuple[str, ...]:
    """Returns the names of labels that may be indices of names."""
    found = []
    for label in labels:
        if isinstance(label, int) and names:
            if not 0 <= label < len(names):
                raise ValueError(
                    f'label {label} is not an index of {len(names)} classes'
                )
            label = names[label]
        found.append(str(label))
    return tuple(found)


def read_datumaro(path: str) -> ImageSet:
    """Reads Datumaro's JSON, which CVAT exports, too.

    The images lie in ``images`` beside the folder ``annotations``, there in
    a folder named like the file.
    """
    content = load_json(path)
    try:
        labels = content['categories']['label']['labels']
        names = [str(label['name']) for label in labels]
        items = list(content['items'])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: needs "items" and "categories" with "label" and "labels"'
        ) from error
    subset = os.path.splitext(os.path.basename(path))[0]
    problems = Problems()
    examples = []
    for index, item in enumerate(items):
        place = f'{path}: items[{index}]'
        with problems.caught(
            ENTRIES, place, AttributeError, KeyError, TypeError
        ):
            ids = [a.get('label_id') for a in item.get('annotations') or []]
            own = _by_index(label_columns.labels_in(ids), names)
            media = item.get('image') or item.get('media') or {}
            image = str(media.get('path') or item['id'])
            examples.append(Example(image, own, place))
    problems.check()
    images = ImageSet(examples, tuple(names), '', path)
    return rooted(images, f'../images/{subset}')
