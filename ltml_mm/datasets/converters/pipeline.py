"""What all converters do once they have read their source."""

from __future__ import annotations

import json
import os
import shlex
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ltml_mm.datasets.converters.errors import ConversionError, Problems
from ltml_mm.datasets.converters.images import check_images
from ltml_mm.datasets.converters.records import ImageSet
from ltml_mm.datasets.converters.writer import annotation_text, write_output


@dataclass(frozen=True)
class OutputOptions:
    """The options that all converters share.

    Attributes:
        out: The output folder.
        force: Whether existing output is overwritten.
        check_images: Whether to decode every image.
        allow_outside: Whether image paths may leave the images' folder.
    """

    out: str
    force: bool = False
    check_images: bool = False
    allow_outside: bool = False


def verify(sets: Iterable[ImageSet | None], options: OutputOptions) -> None:
    """Checks the image files of some sets.

    Args:
        sets: The images; None is left aside.
        options: What to check.

    Raises:
        ConversionError: Images are missing, outside their folder or broken.
    """
    problems = Problems()
    for images in sets:
        if images is not None:
            check_images(
                images, problems, options.allow_outside, options.check_images
            )
    problems.check()


def finish(
    train: ImageSet,
    test: ImageSet | None,
    task_name: str,
    split: dict[str, Any],
    options: OutputOptions,
) -> str:
    """Writes the annotations and ``split.json``.

    Args:
        train: The training set, whose statistics go into both files.
        test: The test set, None for none.
        task_name: The name of the data set.
        split: How the sets were made, for ``split.json``.
        options: Where to write.

    Returns:
        str: A summary for the user.

    Raises:
        ConversionError: The training set is empty, or the output cannot be
            written.
    """
    if not len(train):
        raise ConversionError('the training set would be empty')
    statistics = train.statistics()
    _warn_of_empty_classes(train, 'training')
    texts = {'train.json': annotation_text(train, task_name, statistics)}
    if test is not None:
        _warn_of_empty_classes(test, 'test')
        texts['test.json'] = annotation_text(test, task_name, statistics)
    groups = {
        group: [train.classes[k] for k in members]
        for group, members in statistics.groups().items()
    }
    record = {
        'task_name': task_name,
        **split,
        'num_train_images': len(train),
        'num_test_images': 0 if test is None else len(test),
        'class_counts': dict(
            zip(train.classes, statistics.counts, strict=True)
        ),
        'groups': groups,
    }
    texts['split.json'] = (
        json.dumps(record, indent=2, ensure_ascii=False) + '\n'
    )
    write_output(options.out, texts)
    sizes = ', '.join(f'{len(v)} {k}' for k, v in groups.items())
    held = '' if test is None else f', {len(test)} to test'
    return (
        f'{options.out}: {len(train)} images to train{held}, '
        f'{len(train.classes)} classes ({sizes})'
    )


def train_command(
    config: str,
    images: ImageSet,
    options: OutputOptions,
    data_root: str = '',
    data_prefix: str = '',
) -> str:
    """Words the command that trains on what was written.

    Args:
        config: The config.
        images: Images of the source, all below one root.
        options: Where they were written.
        data_root: The folder that the config expects.
        data_prefix: The folder of the images that it expects.

    Returns:
        str: The command, with the overrides that it needs.
    """
    prefix = os.path.relpath(images.root, options.out).replace(os.sep, '/')
    overrides = []
    if os.path.normpath(options.out) != data_root:
        overrides.append(f'data_root={options.out}')
    if prefix != (data_prefix or '.'):
        overrides.append(f'data_prefix={prefix}')
    if options.allow_outside:
        overrides.append('allow_outside=True')
    command = f'python tools/train.py {config}'
    if overrides:
        command += f' --cfg-options {shlex.join(overrides)}'
    return command


def _warn_of_empty_classes(image_set: ImageSet, kind: str) -> None:
    counts = image_set.statistics().counts
    empty = [
        name
        for name, count in zip(image_set.classes, counts, strict=True)
        if count == 0
    ]
    if empty:
        warnings.warn(
            f'classes without a {kind} image: {", ".join(empty)}',
            stacklevel=3,
        )
