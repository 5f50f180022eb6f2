"""Converts annotations to MMPretrain's JSON: read, check, split, write."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ltml_cli import parse
from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.datasets import splits
from ltml_mm.datasets.converters.formats import READERS, TABLES, find_format
from ltml_mm.datasets.converters.image_files import settle_paths
from ltml_mm.datasets.converters.json_formats import read_coco
from ltml_mm.datasets.converters.label_columns import FIND_ALL, TableOptions
from ltml_mm.datasets.converters.records import (
    ImageSet,
    OutputOptions,
    settle_classes,
)
from ltml_mm.datasets.converters.summary import (
    describe,
    describe_draw,
    first,
    suspicions,
)
from ltml_mm.datasets.converters.tables import read_names
from ltml_mm.datasets.converters.xml_formats import read_voc
from ltml_mm.datasets.published import COCO_CLASSES, VOC_CLASSES
from ltml_mm.files import write_json, write_text

#: The parts of a set, each a file, and the record that completes it.
PARTS = ('train', 'val', 'test')
RECORD = 'split.json'
FILES = (*(f'{part}.json' for part in PARTS), RECORD)


def main(argv: Sequence[str] | None = None) -> None:
    """Converts one's own data: ``tools/dataset_converters/custom.py``."""
    _run_converter('convert', argv, _convert)


def main_voc_lt(argv: Sequence[str] | None = None) -> None:
    """Makes VOC-LT: ``tools/dataset_converters/voc_lt.py``."""
    _run_converter('voc-lt', argv, partial(_convert_published, 'voc'))


def main_coco_lt(argv: Sequence[str] | None = None) -> None:
    """Makes COCO-LT: ``tools/dataset_converters/coco_lt.py``."""
    _run_converter('coco-lt', argv, partial(_convert_published, 'coco'))


def _run_converter(
    tool: str,
    argv: Sequence[str] | None,
    convert: Callable[[argparse.Namespace, OutputOptions], str],
) -> None:
    """Converts and prints the warnings and the summary."""
    args = parse(tool, argv)
    given = {k: v for k, v in vars(args).items() if k in OutputOptions._fields}
    output = OutputOptions(**given)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', UserWarning)
        summary = convert(args, output)
    for warning in caught:
        print(f'WARNING: {warning.message}', file=sys.stderr)
    print(summary)


def _convert(args: argparse.Namespace, output: OutputOptions) -> str:
    """Converts one's own data by the arguments; returns a summary."""
    recipe = None
    if args.max_count is not None:
        steepness = {
            name: value
            for name in ('min_count', 'shape')
            if (value := getattr(args, name)) is not None
        }
        recipe = splits.ParetoRecipe(
            args.max_count, **steepness, seed=args.seed
        )
    return convert_custom(
        args.format,
        args.source,
        output,
        args.images,
        args.classes,
        args.test,
        recipe,
        args.seed,
        TableOptions(
            args.separator,
            args.path_column,
            tuple(args.label_column),
            tuple(args.ignore_columns),
        ),
        args.val,
    )


def _convert_published(
    name: str, args: argparse.Namespace, output: OutputOptions
) -> str:
    """Makes a published set by the arguments; returns a summary."""
    return convert_published(name, args.source, output, args.split_file)


def convert_custom(
    form: str | None,
    source: str,
    output: OutputOptions,
    images: str | None = None,
    classes: str | None = None,
    test: str | float | None = None,
    recipe: splits.ParetoRecipe | None = None,
    seed: int = 0,
    options: TableOptions = FIND_ALL,
    val: str | float | None = None,
) -> str:
    """Converts a source to ``train.json``, ``val.json`` and ``test.json``.

    The last two are made if asked for.

    Args:
        form: The format, one of ``READERS``; None to find it.
        source: The file or folder.
        output: Where to write and what to check.
        images: The folder of the images. Defaults to the source's own.
        classes: A file with the class names, one a line, in the order of
            their labels. Defaults to the source's order, or else by name.
        test: A source of the same format, or the share to hold out.
        recipe: How to draw a long-tailed training set, None for all images.
        seed: Seed of the hold-out.
        options: What is known of a table.
        val: A source of the validation set, or the share of all images to
            hold out for it.

    Returns:
        str: A summary for the user.

    Raises:
        ValueError: The source is broken, or an option does not fit; nothing
            is written.
    """
    if form is None:
        form, source = find_format(source)
    read = _reader(form, options)
    given = {'val': val, 'test': test}
    sources = {k: v for k, v in given.items() if isinstance(v, str)}
    shares = {k: v for k, v in given.items() if isinstance(v, float)}
    _check_output(output, source, *sources.values(), classes)
    names = read_names(classes) if classes else ()
    train = settle_classes(read(source), names)
    root = images or train.root
    found = {'train': train._replace(root=root)}
    for part, path in sources.items():
        other = settle_classes(read(path), train.classes)
        found[part] = other._replace(root=root)
    settled = settle_paths(found.values(), root, output)
    sets = dict(zip(found, settled, strict=True))
    for told in suspicions(sets['train']):
        warnings.warn(f'{source}: {told}', stacklevel=2)
    split: dict[str, Any] = {'source': form}
    notes = [f'{source} read as {form}']
    notes += [note for part in sets.values() for note in part.notes]
    left_out = [entry for part in sets.values() for entry in part.left_out]
    if left_out:
        split['left_out'] = left_out
    sets |= _hold_out(sets['train'], shares, seed)
    for part, record in (('test', 'holdout'), ('val', 'val_holdout')):
        if part in shares:
            split[record] = {'fraction': shares[part], 'seed': seed}
    if recipe is not None:
        whole = sets['train']
        with warnings.catch_warnings():
            # It tells classes by their numbers; describe_draw by their names.
            warnings.simplefilter('ignore')
            drawn = recipe.split(whole.matrix())
        sets['train'] = whole.subset(drawn)
        split['recipe'] = asdict(recipe)
        notes += describe_draw(recipe, whole, sets['train'])
    split['train_paths_sha256'] = splits.ids_checksum(
        example.path for example in sets['train'].examples
    )
    return _write('custom', sets, split, output, notes)


def _reader(form: str, options: TableOptions) -> Callable[[str], ImageSet]:
    """Returns a reader that knows the options, which are for tables."""
    if options == FIND_ALL:
        return READERS[form]
    if form not in TABLES or options.separator == '':
        told = ', '.join(f'{k}={v!r}' for k, v in options._asdict().items())
        raise ValueError(
            f'--separator and the options of columns are for {TABLES} and '
            f'not empty; got {told} for {form}'
        )
    return partial(READERS[form], options=options)


def _hold_out(
    images: ImageSet, shares: Mapping[str, float], seed: int
) -> dict[str, ImageSet]:
    """Splits images into ``train`` and the shares of ``test`` and ``val``.

    The test part comes first: a validation part does not change it.
    """
    if sum(shares.values()) >= 1 > max(shares.values(), default=0):
        raise ValueError(
            f'the fractions leave no image to train on: {dict(shares)}'
        )
    parts, left = {}, 1.0
    for part in ('test', 'val'):
        if part in shares:
            splits.check_fraction(shares[part])
            held = splits.stratified_holdout(
                images.matrix(), shares[part] / left, seed
            )
            parts[part] = images.subset(held)
            kept = np.setdiff1d(np.arange(len(images.examples)), held)
            images = images.subset(kept)
            left -= shares[part]
    return {'train': images, **parts}


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
        ValueError: A file is broken; nothing is written.
    """
    _check_output(output, split_file)
    classes = VOC_CLASSES if name == 'voc' else COCO_CLASSES
    published = splits.VOC_LT if name == 'voc' else splits.COCO_LT
    images, test = (
        settle_classes(part, classes) for part in _published_parts(name, root)
    )
    # COCO pads the ids in its file names with zeros.
    ids = [Path(e.path).stem.lstrip('0') for e in images.examples]
    recipe: dict[str, Any] = asdict(published.recipe)
    if split_file is None:
        indices = published.recipe.split(images.matrix()).tolist()
    else:
        recipe = {'split_file': os.path.basename(split_file)}
        wanted = set(read_names(split_file, known=set(ids)))
        indices = [i for i, image_id in enumerate(ids) if image_id in wanted]
    chosen = [ids[i] for i in indices]
    equal = published.matches(chosen)
    split = {
        'recipe': recipe,
        'train_ids_sha256': splits.ids_checksum(chosen),
        'published_sha256': published.sha256,
        'equals_published': equal,
    }
    sets = settle_paths([images.subset(indices), test], root, output)
    parts = dict(zip(('train', 'test'), sets, strict=True))
    summary = _write(name, parts, split, output)
    verdict = (
        'the training ids equal the published list'
        if equal
        else 'WARNING: the training ids differ from the published list of '
        f'{published.num_images}; results are not comparable with published '
        'ones. Pass that list as --split-file to train on it'
    )
    return f'{verdict}\n{summary}'


def _published_parts(name: str, root: str) -> Iterator[ImageSet]:
    if name == 'voc':
        for year, part in (('VOC2012', 'trainval'), ('VOC2007', 'test')):
            folder = os.path.join(root, year)
            listing = os.path.join(folder, 'ImageSets', 'Main', f'{part}.txt')
            yield read_voc(folder, listing)
    else:
        for part in ('train2017', 'val2017'):
            path = os.path.join(root, 'annotations', f'instances_{part}.json')
            yield read_coco(path)._replace(root=os.path.join(root, part))


def _check_output(output: OutputOptions, *sources: str | None) -> None:
    """Checks that output may be written, before any work is done."""
    if os.path.lexists(output.out) and not os.path.isdir(output.out):
        raise ValueError(f'{output.out}: is no folder; give another --out')
    taken = {os.path.realpath(source) for source in sources if source}
    for name in FILES:
        path = os.path.join(output.out, name)
        if os.path.realpath(path) in taken:
            raise ValueError(
                f'{path}: is read as a source; give another --out'
            )
        if os.path.lexists(path) and not output.force:
            raise ValueError(f'{path}: exists; pass --force to overwrite it')


def _write(
    config: str,
    sets: Mapping[str, ImageSet],
    split: dict,
    output: OutputOptions,
    notes: Sequence[str] = (),
) -> str:
    """Checks and writes the sets; returns a summary and what comes next."""
    sizes = {part: len(images.examples) for part, images in sets.items()}
    if 0 in sizes.values():
        raise ValueError(f'images of the parts would be {sizes}')
    out = Path(output.out)
    classes = sets['train'].classes
    labels = {part: images.matrix() for part, images in sets.items()}
    counts = tuple(labels['train'].sum(0).tolist())
    statistics = ClassStatistics(counts, sizes['train'])
    name = out.resolve().name if config == 'custom' else f'{config}_lt'
    metainfo = {
        'dataset_type': 'multi-label',
        'task_name': name,
        'classes': classes,
        **statistics.to_metainfo(),
    }
    head = json.dumps(metainfo, ensure_ascii=False)
    # Without the record, the other files may be of two conversions.
    for file in reversed(FILES[1:]):
        (out / file).unlink(missing_ok=True)
    for part in filter(sets.__contains__, PARTS):
        file, images, matrix = f'{part}.json', sets[part], labels[part]
        empty = [classes[k] for k in np.flatnonzero(~matrix.any(0))]
        if empty:
            told = f'classes without an image in {file}: {first(empty)}'
            warnings.warn(told, stacklevel=3)
        lines = ',\n'.join(
            json.dumps(
                {'img_path': e.path, 'gt_label': np.flatnonzero(row).tolist()},
                ensure_ascii=False,
            )
            for e, row in zip(images.examples, matrix, strict=True)
        )
        text = f'{{"metainfo": {head},\n"data_list": [\n{lines}\n]}}\n'
        write_text(out / file, text)
    groups = {
        group: [classes[k] for k in members]
        for group, members in statistics.groups().items()
    }
    record = {
        'task_name': name,
        **split,
        **{f'num_{part}_images': size for part, size in sizes.items()},
        'num_test_images': sizes.get('test', 0),
        'class_counts': dict(zip(classes, statistics.counts, strict=True)),
        'groups': groups,
    }
    write_json(out / RECORD, record)
    told = ', '.join(f'{len(v)} {k}' for k, v in groups.items())
    validated = f'{sizes["val"]} to validate on, ' if 'val' in sizes else ''
    prefix = os.path.relpath(sets['train'].root, out)
    words = ['--data', str(out)]
    if prefix != '.' or output.allow_outside:
        words += ['--cfg-options', f'data_prefix={prefix}']
        words += ['allow_outside=True'] * output.allow_outside
    about = [*notes, *describe(sets['train'], split.get('left_out', []))]
    flag = ''
    if not {'val', 'test'} & {*sets}:
        flag = '--no-validate '
        about.append(
            'no test set: --test-fraction 0.2 holds one out, --test SOURCE '
            'gives one; without it training does not validate'
        )
    return (
        f'{out}: {sizes["train"]} images to train, {validated}'
        f'{sizes.get("test", 0)} to test, {len(classes)} classes ({told})\n'
        f'{"".join(f"  {line}{chr(10)}" for line in about)}'
        f'ltml train ltml_{config} {flag}{shlex.join(words)}'
    )
