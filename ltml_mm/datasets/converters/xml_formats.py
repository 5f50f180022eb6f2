"""Reads XML: a folder of VOC's files, and CVAT's annotations of images."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

from tqdm import tqdm

from ltml_mm.datasets.converters.image_files import list_folder, rooted
from ltml_mm.datasets.converters.records import Example, ImageSet, Problems
from ltml_mm.datasets.converters.tables import read_names
from ltml_mm.datasets.images import EXTENSIONS

#: What broken XML raises: a ParseError is a SyntaxError, an unknown encoding
#: a LookupError.
FAULTS = (LookupError, OSError, SyntaxError, ValueError)


def read_voc(path: str, listing: str | None = None) -> ImageSet:
    """Reads VOC's XML files, whose element ``filename`` names the image.

    Objects marked difficult count. Where the image is missing, the one named
    like the XML file is taken; with a ``listing``, a file of ids in their
    order, that one comes first. The folder holds either ``Annotations`` and
    ``JPEGImages`` or ``images``, to which the names refer, or XML files and
    images.
    """
    below = {p.name.lower(): str(p) for p in list_folder(path) if p.is_dir()}
    folder = below.get('annotations', path)
    root = path
    if folder != path:
        default = os.path.join(path, 'JPEGImages')
        root = below.get('jpegimages') or below.get('images') or default
    if listing is None:
        names = [p.name for p in list_folder(folder)]
        names = [name for name in names if name.lower().endswith('.xml')]
    else:
        names = [f'{image_id}.xml' for image_id in read_names(listing)]
    problems = Problems()
    examples = []
    ends = (*EXTENSIONS, *map(str.upper, EXTENSIONS))
    for name in tqdm(names, desc=folder, disable=None):
        file, stem = os.path.join(folder, name), os.path.splitext(name)[0]
        others = tuple(stem + end for end in ends)
        place = f'{file}: not an annotation of VOC'
        with problems.caught('missing or broken annotations', place, *FAULTS):
            image, classes = _read_annotation(file)
            if listing is not None:  # an id names the image, too
                image, others = f'{stem}.jpg', (*others, image)
            examples.append(Example(image, classes, file, others))
    problems.check()
    return ImageSet(examples, (), root, path)


def read_cvat(path: str) -> ImageSet:
    """Reads CVAT's XML for images, a file or a folder with it.

    An image is positive for its tags and for every label that it has a
    shape of. The classes are those of the task, in its order. A project
    keeps the images of each of its subsets in a folder.
    """
    if os.path.isdir(path):
        path = os.path.join(path, 'annotations.xml')
    try:
        root = _parse(path)
    except FAULTS as error:
        raise ValueError(f'{path}: not XML of CVAT: {error}') from error
    if root.tag != 'annotations' or root.find('track') is not None:
        raise ValueError(
            f'{path}: not CVAT\'s "annotations" of images; export the task '
            'as "CVAT for images 1.1"'
        )
    # Those with a parent are points of a skeleton.
    labels = root.iterfind('meta//labels/label')
    classes = tuple(
        (label.findtext('name') or '').strip()
        for label in labels
        if label.find('parent') is None
    )
    problems = Problems()
    examples = []
    for index, item in enumerate(root.iterfind('image')):
        place = f'{path}: image[{index}]'
        name = item.get('name') or ''
        found = tuple(part.get('label') or '' for part in item)
        if not name or '' in found:
            fault = 'needs a "name", and each part of it a "label"'
            problems.add('bad images', place, fault)
        listed = os.path.join(item.get('subset') or '', name)
        others = (name, os.path.basename(name))
        examples.append(Example(listed, found, place, others))
    problems.check()
    return rooted(ImageSet(examples, classes, '', path))


class _Builder(ElementTree.TreeBuilder):
    """Refuses document types: their entities can expand without bound."""

    def doctype(self, *_details: object) -> None:
        raise ValueError('declares a document type; remove the declaration')


def _parse(file: str) -> ElementTree.Element:
    content = Path(file).read_bytes()
    declared = re.match(rb'<\?xml[^>]*encoding=["\']([\w.-]+)', content)
    encoding = None
    if declared:
        # Python knows encodings that the parser does not; GB 18030 holds
        # what those before it hold.
        name, encoding = declared[1].decode().lower(), 'utf-8'
        name = 'gb18030' if name in ('gb2312', 'gbk') else name
        content = content.decode(name).encode()
    parser = ElementTree.XMLParser(target=_Builder(), encoding=encoding)
    return ElementTree.fromstring(content, parser)


def _read_annotation(file: str) -> tuple[str, tuple[str, ...]]:
    """Returns the name of the image and the classes of the objects."""
    root = _parse(file)
    image = (root.findtext('filename') or '').strip()
    if not image:
        raise ValueError('names no image: no text in the element "filename"')
    classes: list[str] = []
    for index, item in enumerate(root.iterfind('object')):
        texts = [(name.text or '').strip() for name in item.iterfind('name')]
        if len(texts) != 1 or not texts[0]:
            raise ValueError(f'object[{index}] needs one "name" with a text')
        classes += texts
    return image, tuple(classes)
