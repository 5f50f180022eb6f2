"""Anyone's own data to MMPretrain's JSON."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ltml_mm.datasets.converters.coco_json import read_coco
from ltml_mm.datasets.converters.csv_file import read_csv
from ltml_mm.datasets.converters.errors import ConversionError, Problems
from ltml_mm.datasets.converters.folders import read_folders
from ltml_mm.datasets.converters.mmpretrain_json import read_mmpretrain
from ltml_mm.datasets.converters.pipeline import (
    OutputOptions,
    finish,
    train_command,
    verify,
)
from ltml_mm.datasets.converters.records import (
    ImageSet,
    Source,
    check_classes,
    resolve,
)
from ltml_mm.datasets.converters.text import read_text
from ltml_mm.datasets.converters.voc_xml import read_voc_folder
from ltml_mm.datasets.converters.writer import check_output
from ltml_mm.datasets.splits import (
    ParetoRecipe,
    check_fraction,
    ids_checksum,
    stratified_holdout,
)

READERS: dict[str, Callable[[str], Source]] = {
    'csv': read_csv,
    'coco': read_coco,
    'voc': read_voc_folder,
    'folders': read_folders,
    'mmpretrain': read_mmpretrain,
}


@dataclass(frozen=True)
class CustomOptions:
    """What to do with one's own data.

    Attributes:
        images: The folder to which image paths refer. Defaults to the
            source's own.
        classes: A file with the class names in the order of their labels,
            one a line. Defaults to the source's order, or else by name.
        test: A source of the same format to test on.
        test_fraction: The share of images to hold out as the test set.
        recipe: How to draw a long-tailed training set, None for all images.
        seed: Seed of the hold-out.

    Raises:
        ValueError: The test fraction does not lie between 0 and 1.
    """

    images: str | None = None
    classes: str | None = None
    test: str | None = None
    test_fraction: float | None = None
    recipe: ParetoRecipe | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.test_fraction is not None:
            check_fraction(self.test_fraction)


def convert_custom(
    form: str, source: str, output: OutputOptions, options: CustomOptions
) -> str:
    """Converts a source to ``train.json`` and, if asked to, ``test.json``.

    Args:
        form: The format, one of ``READERS``.
        source: The file or folder.
        output: Where to write and what to check.
        options: What to do with the data.

    Returns:
        str: A summary for the user.

    Raises:
        ConversionError: The source is broken; nothing is written.
    """
    read = READERS[form]
    check_output(
        output.out, output.force, [source, options.test, options.classes]
    )
    classes = None
    if options.classes is not None:
        classes = _read_classes(options.classes)
    train = resolve(
        read(source), options.images, classes, output.allow_outside
    )
    test = None
    split: dict[str, Any] = {'source': form}
    if options.test is not None:
        test = resolve(
            read(options.test), train.root, train.classes, output.allow_outside
        )
        _check_disjoint(train, test)
    verify([train, test], output)
    if options.test_fraction is not None:
        train, test = _hold_out(train, options.test_fraction, options.seed)
        split['holdout'] = {
            'function': 'stratified_holdout',
            'fraction': options.test_fraction,
            'seed': options.seed,
        }
    if options.recipe is not None:
        train = train.subset(options.recipe.split(train.matrix()))
        split['recipe'] = {
            'function': 'pareto_split',
            **asdict(options.recipe),
        }
    split['train_paths_sha256'] = ids_checksum(train.paths)
    name = os.path.basename(os.path.abspath(output.out))
    summary = finish(train, test, name, split, output)
    command = train_command('configs/ltml_custom.py', train, output)
    return f'{summary}\n{command}'


def _read_classes(path: str) -> list[str]:
    names = [line.strip() for line in read_text(path).rstrip().split('\n')]
    places = [f'{path}:{line}' for line in range(1, len(names) + 1)]
    problems = Problems()
    check_classes(names, places, problems)
    problems.check()
    return names


def _hold_out(
    images: ImageSet, fraction: float, seed: int
) -> tuple[ImageSet, ImageSet]:
    held = stratified_holdout(images.matrix(), fraction, seed).tolist()
    if not held or len(held) == len(images):
        raise ConversionError(
            f'a test fraction of {fraction} of {len(images)} images leaves '
            'the training or the test set empty'
        )
    kept = sorted(set(range(len(images))).difference(held))
    return images.subset(kept), images.subset(held)


def _check_disjoint(train: ImageSet, test: ImageSet) -> None:
    problems = Problems()
    known = set(train.paths)
    for path, example in zip(test.paths, test.examples, strict=True):
        if path in known:
            problems.add(
                'test images that are training images',
                f'{example.place}: {path}',
            )
    problems.check()
