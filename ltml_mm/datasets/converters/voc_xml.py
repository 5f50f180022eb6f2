"""Reads PASCAL VOC's XML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.parsers import expat

from tqdm import tqdm

from ltml_mm.datasets.converters.errors import ConversionError, Problems
from ltml_mm.datasets.converters.records import Example, Source

_FILENAME = ['annotation', 'filename']
_OBJECT = ['annotation', 'object']
_NAME = [*_OBJECT, 'name']


@dataclass
class VOCAnnotation:
    """An image's annotation: file name, class and line of each object."""

    filename: str | None = None
    filename_line: int | None = None
    names: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


def parse_voc_xml(path: str) -> VOCAnnotation:
    """Reads the objects of an annotation file, the difficult ones included.

    Declarations of document types are refused: entities can expand without
    bound or name other files.

    Args:
        path: The XML file.

    Returns:
        VOCAnnotation: What it says.

    Raises:
        ConversionError: The file cannot be read or is not such XML; names
            the line.
    """
    try:
        with open(path, 'rb') as file:
            data = file.read()
    except OSError as error:
        raise ConversionError(f'{path}: {error.strerror}') from error
    handler = _Handler(path)
    try:
        handler.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ConversionError(
            f'{path}:{error.lineno}: not valid XML: '
            f'{expat.ErrorString(error.code)}'
        ) from error
    except (ValueError, LookupError) as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(f'{path}: not valid XML: {error}') from error
    return handler.annotation


def read_voc_ids(
    root: str,
    ids: Sequence[str],
    annotations: str,
    images: str,
    places: Sequence[tuple[str, int]],
) -> Source:
    """Reads the annotations of listed images.

    Args:
        root: The folder to which image paths refer.
        ids: The images' ids: ``<annotations>/<id>.xml`` annotates
            ``<images>/<id>.jpg``.
        annotations: The folder of the XML files, relative to ``root``.
        images: The folder of the images, relative to ``root``.
        places: The file and line that list each id.

    Returns:
        Source: The images in the order of ``ids``.

    Raises:
        ConversionError: A file is missing or broken; names all of them.
    """
    problems = Problems()
    examples = []
    bar = tqdm(ids, desc=annotations)
    for image_id, (file, line) in zip(bar, places, strict=True):
        path = os.path.join(root, annotations, f'{image_id}.xml')
        if not os.path.isfile(path):
            problems.add(
                'missing annotations', f'{file}:{line}: no file {path}'
            )
            continue
        annotation = _collected(path, problems)
        examples.append(_example(f'{images}/{image_id}.jpg', path, annotation))
    problems.check()
    return Source(examples, None, root, root)


def read_voc_folder(path: str) -> Source:
    """Reads a folder of XML files.

    Args:
        path: Either a folder with ``Annotations`` and ``JPEGImages``, or one
            with the XML files themselves and the images beside them. The
            element ``filename`` names the image.

    Returns:
        Source: The images by the names of the XML files; their paths refer
        to ``path``.

    Raises:
        ConversionError: There is no XML file, or one is broken or names no
            image.
    """
    nested = os.path.isdir(os.path.join(path, 'Annotations'))
    folder = os.path.join(path, 'Annotations') if nested else path
    prefix = 'JPEGImages/' if nested else ''
    try:
        names = sorted(n for n in os.listdir(folder) if n.endswith('.xml'))
    except OSError as error:
        raise ConversionError(f'{folder}: {error.strerror}') from error
    if not names:
        raise ConversionError(f'{folder}: no file ends in .xml')
    problems = Problems()
    examples = []
    for name in tqdm(names, desc=os.path.basename(folder)):
        file = os.path.join(folder, name)
        annotation = _collected(file, problems)
        if not annotation.filename:
            problems.add(
                'annotations that name no image',
                f'{file}: no text in the element "filename"',
            )
            continue
        examples.append(
            _example(prefix + annotation.filename, file, annotation)
        )
    problems.check()
    return Source(examples, None, path, path)


def _collected(path: str, problems: Problems) -> VOCAnnotation:
    try:
        return parse_voc_xml(path)
    except ConversionError as error:
        problems.add('broken annotations', str(error))
        return VOCAnnotation(filename='-')


def _example(image: str, path: str, annotation: VOCAnnotation) -> Example:
    lines = dict(
        zip(
            reversed(annotation.names), reversed(annotation.lines), strict=True
        )
    )
    names = tuple(sorted(lines))
    return Example(
        image,
        names,
        path,
        line=annotation.filename_line,
        name_lines=tuple(lines[name] for name in names),
    )


class _Handler:
    """Follows the path of open elements and takes the texts it needs."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.annotation = VOCAnnotation()
        self.open: list[str] = []
        self.text = ''
        self.named = False
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.characters
        self.parser.StartDoctypeDeclHandler = self.doctype

    def fail(self, reason: str) -> ConversionError:
        line = self.parser.CurrentLineNumber
        return ConversionError(f'{self.path}:{line}: {reason}')

    def start(self, tag: str, _attributes: dict) -> None:
        self.open.append(tag)
        self.text = ''
        if self.open[0] != 'annotation':
            raise self.fail(
                f'the root element is "{tag}", not VOC\'s "annotation"'
            )
        if self.open == _OBJECT:
            self.named = False

    def characters(self, data: str) -> None:
        self.text += data

    def end(self, _tag: str) -> None:
        text = self.text.strip()
        if self.open == _FILENAME:
            self.annotation.filename = text
            self.annotation.filename_line = self.parser.CurrentLineNumber
        elif self.open == _NAME:
            if not text or self.named:
                raise self.fail('an object needs one "name" with a text')
            self.named = True
            self.annotation.names.append(text)
            self.annotation.lines.append(self.parser.CurrentLineNumber)
        elif self.open == _OBJECT and not self.named:
            raise self.fail('an object has no "name"')
        self.open.pop()
        self.text = ''

    def doctype(self, *_details: object) -> None:
        raise self.fail(
            'declares a document type, whose entities are not expanded; '
            'remove the declaration'
        )
