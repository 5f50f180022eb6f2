"""The class report of an evaluation, and the rendering of every table."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ltml_mm.class_statistics import (
    GROUPS,
    HEAD_COUNT,
    TAIL_COUNT,
    ClassStatistics,
)


def mean_by_group(
    ap: np.ndarray, groups: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Averages the APs (K,) over all classes and over those of each group.

    NaN, for a class without a positive, is left out.

    Returns:
        dict: ``mAP``, ``mAP_head`` and so on, in the unit of ``ap``. A group
        without a class that has an AP gets no key.
    """
    means = {}
    for key, index in {'': range(len(ap)), **groups}.items():
        known = ap[list(index)]
        known = known[~np.isnan(known)]
        if known.size:
            means[f'mAP_{key}' if key else 'mAP'] = float(known.mean())
    return means


def class_report(
    names: Sequence[str],
    statistics: ClassStatistics,
    ap: Mapping[str, np.ndarray],
    test_counts: Sequence[int],
    head: int = HEAD_COUNT,
    tail: int = TAIL_COUNT,
) -> dict[str, Any]:
    """Gathers the figures of one evaluation, ready for JSON.

    Args:
        names: The K class names.
        statistics: The statistics of the training set.
        ap: The AP of every class in percent, float of shape (K,), by
            prediction: ``''`` is the model's own, other names are branches.
        test_counts: The positives of every class in the test set, length K.
        head: Least training count of a head class.
        tail: Training count below which a class is a tail class.

    Returns:
        dict: ``summary``, the means under the metric's keys;
        ``num_train_images``; and ``classes``, for each class its ``name``,
        ``group``, ``train_images``, ``test_images`` and ``AP``, besides
        ``uniform/AP`` and so on for branches. A missing AP is None.
    """
    groups = statistics.groups(head, tail)
    group_of = statistics.group_of(head, tail)
    ap = {f'{name}/' if name else '': values for name, values in ap.items()}
    summary = {
        f'{prefix}{key}': value
        for prefix, values in ap.items()
        for key, value in mean_by_group(values, groups).items()
    }
    classes = [
        {
            'name': str(name),
            'group': group_of[k],
            'train_images': statistics.counts[k],
            'test_images': int(test_counts[k]),
            **{
                f'{prefix}AP': None if np.isnan(v[k]) else float(v[k])
                for prefix, v in ap.items()
            },
        }
        for k, name in enumerate(names)
    ]
    return {
        'summary': summary,
        'num_train_images': statistics.num_images,
        'classes': classes,
    }


def class_table(report: Mapping[str, Any]) -> str:
    """Renders what :func:`class_report` returned as a Markdown table.

    Returns:
        str: One row each for total, head, medium and tail, then one per
        class from the most to the least frequent. Where the report has
        thresholds, they and their F1 are the last columns.
    """
    classes = report['classes']
    keys = [k for k in classes[0] if k == 'AP' or k.endswith('/AP')]
    decided = 'threshold' in classes[0]
    header = ['Class', 'Group', 'Train images', 'Test images']
    rows: list[list[Any]] = []
    for group in ('', *GROUPS):
        members = [c for c in classes if group in ('', c['group'])]
        if not members:
            continue
        suffix = f'_{group}' if group else ''
        means = [
            report['summary'].get(f'{key[:-2]}mAP{suffix}') for key in keys
        ]
        # An image has several labels: image counts of classes do not add up.
        name = f'{group or "total"} ({len(members)} classes)'
        rows.append([name, '', '', '', *map(percent, means)])
        if decided:
            rows[-1] += ['', percent(report['summary'].get(f'F1{suffix}'))]
    # Sorting is stable: equal counts stay in the order of the labels.
    for row in sorted(classes, key=lambda c: -c['train_images']):
        facts = ('name', 'group', 'train_images', 'test_images')
        cells = [row[key] for key in facts]
        rows.append([*cells, *(percent(row[key]) for key in keys)])
        if decided:
            rows[-1] += [f'{row["threshold"]:.3f}', percent(row['F1'])]
    titles = [key if key == 'AP' else f'AP {key[:-3]}' for key in keys]
    titles += ['Threshold', 'F1'] if decided else []
    return table([*header, *titles], rows)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Renders a table whose columns line up in plain text too.

    Returns:
        str: Markdown. Columns of numbers stand on the right, where ``-``,
        which None becomes, or nothing is a number that does not exist.
    """
    cells = [[_cell(value) for value in row] for row in (header, *rows)]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(_width, column)) for column in columns]
    numeric = [_are_numbers(column[1:]) for column in columns]
    rule = [
        '-' * (width - 1) + (':' if right else '-')
        for width, right in zip(widths, numeric, strict=True)
    ]
    lines = [
        [
            _pad(cell, width, right)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        for line in (cells[0], rule, *cells[1:])
    ]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _cell(value: Any) -> str:
    value = '-' if value is None else value
    return ' '.join(str(value).split()).replace('|', r'\|')


def _width(text: str) -> int:
    """Counts a terminal's columns: an East Asian character takes two."""
    wide = (unicodedata.east_asian_width(char) in 'FW' for char in text)
    return len(text) + sum(wide)


def _pad(text: str, width: int, right: bool) -> str:
    blanks = ' ' * (width - _width(text))
    return blanks + text if right else text + blanks


def _are_numbers(cells: Sequence[str]) -> bool:
    present = [cell for cell in cells if cell not in ('', '-')]
    return bool(present) and all(
        re.fullmatch(r'[+-]?\d+(\.\d+)?', cell) for cell in present
    )


def percent(value: float | None) -> str:
    """Renders a figure in percent, ``-`` where it does not exist."""
    return '-' if value is None else f'{value:.2f}'
