"""Writes annotation files: whole or not at all, the same bytes every time."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping

from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.datasets.converters.errors import ConversionError
from ltml_mm.datasets.converters.records import ImageSet

#: The files that the converters write; they belong together.
NAMES = ('train.json', 'test.json', 'split.json')


def annotation_text(
    image_set: ImageSet, task_name: str, statistics: ClassStatistics
) -> str:
    """Formats images as MMPretrain's multi-label JSON, one a line.

    Args:
        image_set: The images.
        task_name: The name of the data set.
        statistics: Those of the training set, whichever set this is.

    Returns:
        str: The text of the file.
    """
    metainfo = {
        'dataset_type': 'multi-label',
        'task_name': task_name,
        'classes': list(image_set.classes),
        **statistics.to_metainfo(),
    }
    entries = ',\n'.join(
        _line({'img_path': path, 'gt_label': list(labels)})
        for path, labels in zip(image_set.paths, image_set.labels, strict=True)
    )
    return (
        f'{{"metainfo": {_line(metainfo)},\n"data_list": [\n{entries}\n]}}\n'
    )


def check_output(
    out: str, force: bool, sources: Iterable[str | None] = ()
) -> None:
    """Checks that output may be written, before any work is done.

    Args:
        out: The output folder.
        force: Whether existing output is overwritten.
        sources: Files that are read, which stay whatever happens.

    Raises:
        ConversionError: The folder cannot hold the output, holds one
            already, or the output would replace a source.
    """
    if os.path.lexists(out) and not os.path.isdir(out):
        raise ConversionError(f'{out}: exists and is not a folder')
    targets = [os.path.join(out, name) for name in NAMES]
    taken = {os.path.realpath(source) for source in sources if source}
    for target in targets:
        if os.path.realpath(target) in taken:
            raise ConversionError(
                f'{target}: is read as a source and would be overwritten; '
                'give another --out'
            )
    existing = [target for target in targets if os.path.lexists(target)]
    if existing and not force:
        raise ConversionError(
            f'{existing[0]}: exists; pass --force to overwrite it'
        )


def write_output(out: str, texts: Mapping[str, str]) -> None:
    """Writes files into a folder: all of them, or none.

    Earlier output that is not written anew goes, so that what lies there
    belongs together.

    Args:
        out: The folder, created if need be.
        texts: The text of each file, by names out of ``NAMES``.

    Raises:
        ConversionError: The folder or a file cannot be written; what was
            there before is there again.
    """
    try:
        os.makedirs(out, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='.tmp-', dir=out) as folder:
            for name, text in texts.items():
                path = os.path.join(folder, name)
                with open(path, 'w', encoding='utf-8', newline='\n') as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
            _swap(folder, out, list(texts))
    except OSError as error:
        raise ConversionError(
            f'{error.filename or out}: cannot be written: {error.strerror}'
        ) from error


def _swap(folder: str, out: str, names: list[str]) -> None:
    """Moves new files in and old ones out, or undoes both."""
    backup = os.path.join(folder, 'before')
    os.mkdir(backup)
    old = [n for n in NAMES if os.path.lexists(os.path.join(out, n))]
    moved: list[str] = []
    try:
        for name in old:
            os.replace(os.path.join(out, name), os.path.join(backup, name))
        for name in names:
            os.replace(os.path.join(folder, name), os.path.join(out, name))
            moved.append(name)
    except BaseException:
        for name in moved:
            os.unlink(os.path.join(out, name))
        for name in os.listdir(backup):
            shutil.move(os.path.join(backup, name), os.path.join(out, name))
        raise


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
