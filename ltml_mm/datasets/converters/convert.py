"""Converts annotations to MMPretrain's JSON: read, check, split, write."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ltml_mm.datasets.converters.object_readers import read_coco, read_voc
from ltml_mm.datasets.converters.readers import (
    read_csv,
    read_folders,
    read_ids,
    read_mmpretrain,
    read_text,
)
from ltml_mm.datasets.converters.records import (
    ImageSet,
    Problems,
    check_classes,
    check_files,
    resolve,
)
from ltml_mm.datasets.published import COCO_CLASSES, VOC_CLASSES
from ltml_mm.datasets.splits import (
    COCO_LT,
    VOC_LT,
    ParetoRecipe,
    check_fraction,
    ids_checksum,
    stratified_holdout,
)
from ltml_mm.files import write_json, write_text

READERS: dict[str, Callable[[str], ImageSet]] = {
    'csv': read_csv,
    'coco': read_coco,
    'voc': read_voc,
    'folders': read_folders,
    'mmpretrain': read_mmpretrain,
}


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

    def paths(self) -> list[str]:
        """Returns the files to write, of which the last completes the set."""
        names = ('train.json', 'test.json', 'split.json')
        return [os.path.join(self.out, name) for name in names]


@dataclass(frozen=True)
class CustomOptions:
    """How to read and split one's own data.

    Attributes:
        images: The folder to which image paths refer. Defaults to the
            source's own.
        classes: A file with the class names in the order of their labels,
            one a line. Defaults to the source's order, or else by name.
        test: A source of the same format to test on.
        test_fraction: The share of images to hold out as the test set.
        recipe: How to draw a long-tailed training set, None for all images.
        seed: Seed of the hold-out.
        separator: Separates the labels in a CSV file.

    Raises:
        ValueError: The test fraction does not lie between 0 and 1, or the
            separator is empty.
    """

    images: str | None = None
    classes: str | None = None
    test: str | None = None
    test_fraction: float | None = None
    recipe: ParetoRecipe | None = None
    seed: int = 0
    separator: str | None = None

    def __post_init__(self) -> None:
        if self.test_fraction is not None:
            check_fraction(self.test_fraction)
        if self.separator == '':
            raise ValueError('the separator must not be empty')


def run_converter(
    parser: argparse.ArgumentParser,
    convert: Callable[[argparse.Namespace, OutputOptions], str],
    out: str | None = None,
) -> None:
    """Adds the options that all converters share, converts and prints.

    Args:
        parser: The parser of the converter's own arguments.
        convert: Converts and returns a summary.
        out: The default of ``--out``, None to require it.
    """
    parser.add_argument(
        '--out',
        default=out,
        required=out is None,
        help='folder to write train.json, test.json and split.json to',
    )
    for option, text in (
        ('--force', 'overwrite existing output'),
        ('--check-images', 'decode every image and list the broken ones'),
        ('--allow-outside', "let paths and links leave the images' folder"),
    ):
        parser.add_argument(option, action='store_true', help=text)
    args = parser.parse_args()
    output = OutputOptions(
        args.out, args.force, args.check_images, args.allow_outside
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', UserWarning)
        summary = convert(args, output)
    for warning in caught:
        print(f'WARNING: {warning.message}', file=sys.stderr)
    print(summary)


def convert_custom(
    form: str, source: str, output: OutputOptions, options: CustomOptions
) -> str:
    """Converts a source to ``train.json`` and, if asked to, ``test.json``.

    Args:
        form: The format, one of ``READERS``.
        source: The file or folder.
        output: Where to write and what to check.
        options: How to read and split the data.

    Returns:
        str: A summary for the user.

    Raises:
        OSError: A file cannot be read or written.
        ValueError: The source is broken; nothing is written.
    """
    read = READERS[form]
    if options.separator is not None:
        if form != 'csv':
            raise ValueError(f'--separator is for csv, not for {form}')
        read = partial(read_csv, separator=options.separator)
    _check_output(output, [source, options.test, options.classes])
    classes = _read_classes(options.classes) if options.classes else ()
    outside = output.allow_outside
    train = resolve(read(source), options.images, classes, outside)
    test = None
    if options.test is not None:
        test = resolve(read(options.test), train.root, train.classes, outside)
    check_files(train, test, outside, output.check_images)
    split: dict[str, Any] = {'source': form}
    if options.test_fraction is not None:
        held = stratified_holdout(
            train.matrix(), options.test_fraction, options.seed
        )
        kept = np.setdiff1d(np.arange(len(train.examples)), held)
        if not len(held) or not len(kept):
            raise ValueError(
                f'a test fraction of {options.test_fraction} of '
                f'{len(train.examples)} images leaves a set empty'
            )
        train, test = train.subset(kept), train.subset(held)
        split['holdout'] = {
            'function': 'stratified_holdout',
            'fraction': options.test_fraction,
            'seed': options.seed,
        }
    if options.recipe is not None:
        train = train.subset(options.recipe.split(train.matrix()))
        recipe = {'function': 'pareto_split', **asdict(options.recipe)}
        split['recipe'] = recipe
    split['train_paths_sha256'] = ids_checksum(e.path for e in train.examples)
    name = os.path.basename(os.path.abspath(output.out))
    summary = _write(train, test, name, split, output)
    return f'{summary}\n{_train_command("custom", train.root, output)}'


def convert_published(
    name: str, root: str, output: OutputOptions, split_file: str | None = None
) -> str:
    """Makes VOC-LT or COCO-LT from the original annotations.

    VOC-LT is drawn from VOC2012 trainval and tested on VOC2007 test; objects
    marked difficult count as positives. COCO-LT is drawn from train2017 and
    tested on val2017, whose images without a label stay as negatives.

    Args:
        name: ``voc`` or ``coco``.
        root: The folder ``VOCdevkit`` with ``VOC2007`` and ``VOC2012``, or
            one with ``annotations``, ``train2017`` and ``val2017``.
        output: Where to write and what to check.
        split_file: A list of training ids, one a line. Defaults to drawing
            the split by the published recipe.

    Returns:
        str: A summary for the user.

    Raises:
        OSError: A file cannot be read or written.
        ValueError: A file is broken; nothing is written.
    """
    _check_output(output, [split_file])
    classes = VOC_CLASSES if name == 'voc' else COCO_CLASSES
    published = VOC_LT if name == 'voc' else COCO_LT
    images, test = (
        resolve(part, None, classes, output.allow_outside)
        for part in _published_parts(name, root)
    )
    # COCO pads the ids in its file names with zeros.
    ids = [Path(e.path).stem.lstrip('0') for e in images.examples]
    recipe: dict[str, Any]
    if split_file is None:
        recipe = {'function': 'pareto_split', **asdict(published.recipe)}
        indices = published.recipe.split(images.matrix()).tolist()
    else:
        recipe = {'split_file': os.path.basename(split_file)}
        wanted = set(read_ids(split_file, known=ids))
        indices = [i for i, image_id in enumerate(ids) if image_id in wanted]
    chosen = [ids[i] for i in indices]
    equal = published.matches(chosen)
    split = {
        'recipe': recipe,
        'train_ids_sha256': ids_checksum(chosen),
        'published_sha256': published.sha256,
        'equals_published': equal,
    }
    train = images.subset(indices)
    check_files(train, test, output.allow_outside, output.check_images)
    summary = _write(train, test, f'{name}_lt', split, output)
    verdict = (
        'the training ids equal the published list'
        if equal
        else 'WARNING: the training ids differ from the published list of '
        f'{published.num_images}; results are not comparable with published '
        'ones. Pass that list as --split-file to train on it'
    )
    return f'{summary}\n{verdict}\n{_train_command(name, train.root, output)}'


def _published_parts(name: str, root: str) -> Iterator[ImageSet]:
    if name == 'voc':
        for year, part in (('VOC2012', 'trainval'), ('VOC2007', 'test')):
            folder = os.path.join(root, year)
            listing = os.path.join(folder, 'ImageSets', 'Main', f'{part}.txt')
            yield read_voc(folder, listing).below(root, f'{year}/JPEGImages')
    else:
        for part in ('train2017', 'val2017'):
            path = os.path.join(root, 'annotations', f'instances_{part}.json')
            yield read_coco(path).below(root, part)


def _read_classes(path: str) -> list[str]:
    names = [line.strip() for line in read_text(path).rstrip().split('\n')]
    problems = Problems()
    places = [f'{path}:{line}' for line in range(1, len(names) + 1)]
    check_classes(names, places, problems)
    problems.check()
    return names


def _check_output(
    output: OutputOptions, sources: Iterable[str | None]
) -> None:
    """Checks that output may be written, before any work is done."""
    if os.path.lexists(output.out) and not os.path.isdir(output.out):
        raise ValueError(f'{output.out}: exists and is not a folder')
    taken = {os.path.realpath(source) for source in sources if source}
    for path in output.paths():
        if os.path.realpath(path) in taken:
            raise ValueError(
                f'{path}: is read as a source and would be overwritten; give '
                'another --out'
            )
        if os.path.lexists(path) and not output.force:
            raise ValueError(f'{path}: exists; pass --force to overwrite it')


def _write(
    train: ImageSet,
    test: ImageSet | None,
    name: str,
    split: dict[str, Any],
    output: OutputOptions,
) -> str:
    """Writes the annotations and ``split.json``; returns a summary."""
    if not train.examples:
        raise ValueError('the training set would be empty')
    statistics = train.statistics()
    classes = train.classes
    groups = {
        group: [classes[k] for k in members]
        for group, members in statistics.groups().items()
    }
    metainfo = {
        'dataset_type': 'multi-label',
        'task_name': name,
        'classes': classes,
        **statistics.to_metainfo(),
    }
    *files, split_file = output.paths()
    # Without the record, the other files may be of two conversions.
    for path in (split_file, *files[1:]):
        Path(path).unlink(missing_ok=True)
    kinds = {'training': train, 'test': test}
    for path, (kind, images) in zip(files, kinds.items(), strict=True):
        if images is None:
            continue
        counts = zip(classes, images.statistics().counts, strict=True)
        empty = ', '.join(name for name, count in counts if count == 0)
        if empty:
            warnings.warn(
                f'classes without a {kind} image: {empty}', stacklevel=3
            )
        write_text(path, _annotations(images, metainfo))
    num_train, num_test = (
        len(train.examples),
        len(test.examples) if test else 0,
    )
    record = {
        'task_name': name,
        **split,
        'num_train_images': num_train,
        'num_test_images': num_test,
        'class_counts': dict(zip(classes, statistics.counts, strict=True)),
        'groups': groups,
    }
    write_json(split_file, record)
    sizes = ', '.join(f'{len(v)} {k}' for k, v in groups.items())
    return (
        f'{output.out}: {num_train} images to train, {num_test} to test, '
        f'{len(classes)} classes ({sizes})'
    )


def _annotations(images: ImageSet, metainfo: dict[str, Any]) -> str:
    """Formats images as MMPretrain's JSON, one a line."""
    pairs = zip(images.examples, images.labels(), strict=True)
    entries = [{'img_path': e.path, 'gt_label': labels} for e, labels in pairs]
    head, *lines = (
        json.dumps(value, ensure_ascii=False, allow_nan=False)
        for value in (metainfo, *entries)
    )
    body = ',\n'.join(lines)
    return f'{{"metainfo": {head},\n"data_list": [\n{body}\n]}}\n'


def _train_command(name: str, root: str, output: OutputOptions) -> str:
    """Words the command that trains on what was written."""
    prefix = os.path.relpath(root, output.out).replace(os.sep, '/')
    # The folders that the configs name.
    data_root = {'voc': 'data/voc_lt', 'coco': 'data/coco_lt'}.get(name)
    data_prefix = {'voc': '../VOCdevkit', 'coco': '../coco'}.get(name, '.')
    overrides = []
    if os.path.normpath(output.out) != data_root:
        overrides.append(f'data_root={output.out}')
    if prefix != data_prefix:
        overrides.append(f'data_prefix={prefix}')
    if output.allow_outside:
        overrides.append('allow_outside=True')
    command = f'python tools/train.py configs/ltml_{name}.py'
    if overrides:
        command += f' --cfg-options {shlex.join(overrides)}'
    return command
