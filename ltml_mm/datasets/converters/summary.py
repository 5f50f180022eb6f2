"""Tells what was read and drawn, and what looks wrong with it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ltml_mm.datasets.converters.records import MAX_SHOWN, ImageSet
from ltml_mm.datasets.splits import ParetoRecipe, cooccurrence, rank_classes

#: What no class name holds, and what one may hold as well.
SEPARATORS, MARKS = ';|,、；，', '/+& '


def first(entries: Iterable[str], separator: str = ', ') -> str:
    """Joins the first ten entries, with a word about the rest."""
    shown = list(entries)
    rest = len(shown) - MAX_SHOWN
    told = separator.join(shown[:MAX_SHOWN])
    return told + f'{separator}and {rest} more' * (rest > 0)


def describe(images: ImageSet, left_out: Sequence[str]) -> list[str]:
    """Describes a training set, and what of all parts was left out."""
    labels = images.matrix()
    sizes, counts = labels.sum(1), labels.sum(0)
    order = np.argsort(-counts, kind='stable')
    shown = [f'{images.classes[k]} {counts[k]}' for k in order]
    few = min(5, -(-len(shown) // 2))
    lines = [
        f'labels an image: {sizes.mean():.2f} on average, at most '
        f'{sizes.max()}; images without a label: {(sizes == 0).sum()}',
        f'largest classes: {", ".join(shown[:few])}; '
        f'smallest: {", ".join(shown[few:][-5:]) or shown[-1]}',
    ]
    if left_out:
        told = first(left_out)
        lines.append(f'left out (all in split.json): {len(left_out)}: {told}')
    return lines


def describe_draw(
    recipe: ParetoRecipe, images: ImageSet, drawn: ImageSet
) -> list[str]:
    """Tells what a recipe drew, and which targets it cannot reach."""
    before, after = images.matrix(), drawn.matrix()
    ranked = rank_classes(before)
    targets = recipe.targets(len(ranked))
    rows = [
        (images.classes[k], after[:, k].sum(), n, before[:, k].sum())
        for k, n in zip(ranked, targets, strict=True)
    ]
    shown, told = rows, ''
    if len(rows) > 2 * MAX_SHOWN:
        shown = sorted(rows, key=lambda row: -abs(row[1] - row[2]))[:5]
        told = 'furthest from the target: '
    told += ', '.join(f'{name} {n} ({target})' for name, n, target, _ in shown)
    lines = [
        f'the long tail holds {len(after)} of {len(before)} images; images '
        f'(target) of a class: {told}'
    ]
    short = [
        f'{name} (has {available}, target {target})'
        for name, _, target, available in rows
        if available < target
    ]
    if short:
        lines.append(f'targets out of reach: {first(short)}')
    return lines


def suspicions(images: ImageSet) -> Iterator[str]:
    """Yields what looks wrong with labels, by the names of the classes."""
    names, labels = images.classes, images.matrix()
    counts = labels.sum(0)
    once = [name for name, n in zip(names, counts, strict=True) if n == 1]
    if len(once) > max(4, len(names) / 2):
        yield (
            f'{len(names)} classes, of which {len(once)} appear once (are the '
            f'labels separated as they should be?): {first(once)}'
        )
    alike = defaultdict(list)
    for name in names:
        # Of an accent, its two spellings in Unicode look the same.
        plain = unicodedata.normalize('NFKC', name).casefold()
        alike[''.join(plain.split())].append(name)
    same = [' and '.join(map(repr, g)) for g in alike.values() if len(g) > 1]
    if same:
        yield f'classes that look alike: {first(same)}'
    if joined := list(_joined(images)):
        yield (
            'labels that hold a separator (custom.py csv --separator says '
            f'what separates them): {first(joined)}'
        )
    everywhere = counts == len(labels)
    if len(labels) > 1 and everywhere.any():
        told = first(names[k] for k in np.flatnonzero(everywhere))
        yield f'classes in every image: {told}'
    # By chance few images of a class share another, many do not.
    least = max(2, min(10, len(labels) // 20))
    together = cooccurrence(labels)
    always = (together == counts[:, None]) & (counts >= least)[:, None]
    always[:, everywhere] = False
    np.fill_diagonal(always, False)
    pairs = [
        f'{names[a]} ({counts[a]} images) with {names[b]}'
        for a, b in zip(*np.nonzero(always), strict=True)
        if not everywhere[a]
    ]
    if pairs:
        yield f'classes that always come with another: {first(pairs)}'


def _joined(images: ImageSet) -> Iterator[str]:
    """Yields the classes that seem to be several, each with a place."""
    seen = {
        mark: Counter(part for n in images.classes for part in _cut(n, mark))
        for mark in MARKS
    }
    places = {n: e.place for e in reversed(images.examples) for n in e.names}
    for name in images.classes:
        parts = (
            # A part is a class, or stands in another name, too.
            mark in name and min(seen[mark][p] for p in _cut(name, mark)) > 1
            for mark in MARKS
        )
        numbers = re.fullmatch(r'\d+([/+& ]+\d+)+', name)
        if any(m in name for m in SEPARATORS) or numbers or any(parts):
            place = f' ({places[name]})' if name in places else ''
            yield f'{name!r}{place}'


def _cut(name: str, mark: str) -> set[str]:
    return {part.strip() for part in name.split(mark)}
