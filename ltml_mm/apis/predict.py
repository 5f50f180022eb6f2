"""Predicts images: the logic of ``tools/predict.py``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ltml_cli import parse
from ltml_cli.run_parsers import DEFAULT_THRESHOLD, SOME_SKIPPED
from ltml_mm.apis.inferencer import MultiLabelInferencer, find_images
from ltml_mm.apis.model import check_selection
from ltml_mm.datasets.images import UnreadableImageError, printable
from ltml_mm.evaluation.report import table
from ltml_mm.files import write_bytes, write_json
from ltml_mm.inspection.pictures import encode_picture, picture_format


def main(argv: Sequence[str] | None = None) -> None:
    """Predicts, shows a table, writes files; exits with 3 if some failed."""
    args = parse('predict', argv)
    images, skipped = _list_images(args)
    model = args.config, args.checkpoint, args.device, args.cfg_options
    inferencer = MultiLabelInferencer(*model, args.thresholds)
    if args.threshold is None and args.topk is None:
        if inferencer.thresholds is None:
            args.threshold = DEFAULT_THRESHOLD
            print(inferencer.thresholds_note, file=sys.stderr)
        else:
            args.thresholds = inferencer.thresholds_note
    check_selection(args.threshold, args.topk, len(inferencer.class_info))
    for error in skipped:
        _report(error)
    found = len(images) + len(skipped)
    records = _predict_images(inferencer, images, skipped, args)
    shown = _prediction_table(records, args.input)
    # The terminal may lack some of the characters.
    encoding = sys.stdout.encoding or 'utf-8'
    print(shown.encode(encoding, 'backslashreplace').decode(encoding))
    if args.out is not None:
        told = (
            'config', 'checkpoint', 'threshold', 'topk', 'thresholds',
            'calibrated',
        )  # fmt: skip
        content = {
            **{name: getattr(args, name) for name in told},
            'classes': inferencer.class_info,
            'predictions': records,
            'skipped': [
                {'path': error.path, 'reason': error.reason}
                for error in skipped
            ],
        }
        write_json(Path(args.out) / 'predictions.json', content)
    if skipped:
        print(f'{len(skipped)} of {found} files were skipped', file=sys.stderr)
        sys.exit(SOME_SKIPPED)


def _list_images(
    args: argparse.Namespace,
) -> tuple[list[Path], list[UnreadableImageError]]:
    source = Path(args.input)
    pictures = None if args.out is None else Path(args.out) / 'pictures'
    folder = source if source.is_dir() else source.parent
    if pictures and folder.resolve().is_relative_to(pictures.resolve()):
        raise ValueError(
            f'the pictures of --out {args.out} would replace the images in '
            f'{printable(folder)}: give another --out'
        )
    if not source.is_dir():
        return [source], []
    images, skipped = find_images(source, leave_out=pictures)
    if not images and not skipped:
        raise ValueError(f'no image in {printable(source)}')
    return images, skipped


def _predict_images(
    inferencer: MultiLabelInferencer,
    images: Sequence[Path],
    skipped: list[UnreadableImageError],
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Predicts the images and writes their pictures; adds to ``skipped``."""
    records = []
    single = not Path(args.input).is_dir()
    with tqdm(total=len(images), unit='image', disable=single or None) as bar:

        def skip(error: UnreadableImageError) -> None:
            _report(error)
            skipped.append(error)
            bar.update()

        for image, sample in inferencer.stream(images, args.batch_size, skip):
            record = inferencer.record(
                sample, args.threshold, args.topk, args.calibrated
            )
            if args.out is not None:
                picture = inferencer.draw(image, record['labels'])
                # Its own path, so that names differ where those do.
                relative = _relative(str(image), args.input)
                suffix = '' if picture_format(relative) else '.png'
                name = f'pictures/{relative}{suffix}'
                path = Path(args.out, name)
                # A folder there may be a link.
                if not path.parent.resolve().is_relative_to(
                    Path(args.out).resolve()
                ):
                    raise ValueError(
                        f'{printable(path)} lies outside {args.out}: a link '
                        'leads there; give another --out'
                    )
                write_bytes(path, encode_picture(picture, name))
                record['picture'] = name
            records.append(record)
            bar.update()
    return records


def _prediction_table(
    records: Sequence[Mapping[str, Any]], source: str
) -> str:
    """Renders one row for each predicted class, names escaped."""
    rows = []
    own = any(
        'threshold' in label
        for record in records
        for label in record['labels']
    )
    for record in records:
        image = printable(_relative(record['path'], source))
        if not record['labels']:
            rows.append([image, *'----', *'-' * own])
        for label in record['labels']:
            name, score = printable(label['name']), f'{label["score"]:.3f}'
            known = (label['group'], label['train_images'])
            shown = ('-' if value is None else value for value in known)
            least = [f'{label["threshold"]:.3f}'] if own else []
            rows.append([image, name, score, *shown, *least])
    header = ['Image', 'Class', 'Score', 'Group', 'Train images']
    return table([*header, *['Threshold'] * own], rows)


def _report(error: UnreadableImageError) -> None:
    tqdm.write(f'skipped {error}', file=sys.stderr)


def _relative(path: str, source: str) -> str:
    # An image that was given by itself is named by its last part.
    folder = source if os.path.isdir(source) else os.path.dirname(source)
    return os.path.relpath(path, folder or '.')
