"""Writes a page about a model: ``tools/analysis/model_report.py``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import zip_longest
from math import log10
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from mmengine.dataset import pseudo_collate
from tqdm import tqdm

from ltml_cli import parse
from ltml_mm.apis.model import load_network
from ltml_mm.datasets.annotations import read_labels
from ltml_mm.datasets.images import first_line
from ltml_mm.datasets.splits import cooccurrence
from ltml_mm.decisions.calibration import reliability, score_shift
from ltml_mm.decisions.choice import class_figures, summary_figures
from ltml_mm.decisions.thresholds import find_thresholds
from ltml_mm.evaluation import average_precision, mean_by_group
from ltml_mm.files import write_text
from ltml_mm.inspection.attention import Attention, has_grad_cam
from ltml_mm.inspection.cooccurrence_errors import false_alarms, lonely_misses
from ltml_mm.inspection.evidence import (
    Evidence,
    build_training_set,
    class_groups,
    gather,
    observe,
    short_name,
    spread,
)
from ltml_mm.inspection.neighbours import Matches
from ltml_mm.inspection.pictures import fit, heat_uri, shrink

PAGE = 'report.html'
#: What the page may take, in bytes.
MAX_BYTES = 10_000_000
#: The classes in the table, those with pictures, and of each kind in one.
MAX_CLASSES, MAX_DETAILS, MAX_OF_CLASS = 2000, 300, 3
#: The rows of a table of pairs, the cards of a section, points of a curve,
#: and the labels that a card names.
MAX_PAIRS, MAX_SECTION, MAX_POINTS, MAX_LABELS = 30, 12, 40, 12
GUESS = (
    'Every class is decided at 0.5, a guess under which rare classes are '
    'seldom named: tools/analysis/thresholds.py chooses one threshold a class.'
)
NO_GRAD_CAM = (
    'Grad-CAM needs the package grad-cam: pip install "ltml_mm[report]"'
)
NO_FIGURES = dict.fromkeys(('precision', 'recall', 'f1'))


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the page."""
    args = parse('model-report', argv)
    models = [(args.config, args.checkpoint, args.thresholds)]
    models += [(*args.compare, None)] if args.compare else []
    subjects, notes = [], []
    for config, checkpoint, file in models:
        network = load_network(
            config, checkpoint, args.device, args.cfg_options
        )
        chosen, note = find_thresholds(
            checkpoint, network.digest, network.names, file
        )
        if chosen is None:
            # The page has other words: these name folders of this machine.
            print(note, file=sys.stderr)
            note = GUESS
        else:
            kind = chosen.chosen_on.get('kind', 'other')
            note = f'One threshold a class, for {chosen.metric}, chosen on '
            note += f'{kind} images.'
        notes.append(note)
        subjects.append(gather(network, chosen))
    check_comparable(subjects)
    page = describe(subjects, notes)
    page['duplicates'] = find_duplicates(subjects[0], args.train_images)
    cam = not args.no_cam and has_grad_cam()
    page['cam'] = add_pictures(page, subjects[0], cam)
    path = Path(args.out) / PAGE
    write_text(path, render(page))
    print(f'The report is {path}')
    if not args.no_cam and not cam:
        print(NO_GRAD_CAM, file=sys.stderr)


def check_comparable(subjects: Sequence[Evidence]) -> None:
    """Refuses models that were tested on other classes or pictures."""
    first, second = subjects[0], subjects[-1]
    for what, one, two in (
        ('class', first.network.names, second.network.names),
        (
            'picture',
            map(short_name, first.found.paths),
            map(short_name, second.found.paths),
        ),
        (
            'the labels of picture',
            first.found.targets.tolist(),
            second.found.targets.tolist(),
        ),
    ):
        for index, (a, b) in enumerate(zip_longest(one, two)):
            if a != b:
                shown = f' ({a} and {b})' if isinstance(a or b, str) else ''
                raise ValueError(
                    f'--compare: the test sets differ in {what} {index}'
                    f'{shown}; both configs must test the same pictures'
                )


def describe(
    subjects: Sequence[Evidence], notes: Sequence[str]
) -> dict[str, Any]:
    """Gathers what the page shows, but for pictures and duplicates.

    Of the model and maybe one to set beside it, with a note on the thresholds
    of each.
    """
    first = subjects[0]
    ap = [
        {
            name: 100 * average_precision(scores, one.found.targets)
            for name, scores in {
                '': one.found.scores,
                **one.found.branches,
            }.items()
        }
        for one in subjects
    ]
    return {
        'models': [
            {
                'title': '/'.join(one.network.path.absolute().parts[-2:]),
                'config': Path(one.network.cfg.filename or '').name,
                'note': note,
                'branches': list(one.found.branches),
                'unlabelled': int((~one.predicted.any(1)).sum()),
            }
            for one, note in zip(subjects, notes, strict=True)
        ],
        'images': len(first.found.targets),
        'names': first.network.names,
        'train_images': (first.network.meta or {}).get('num_train_images'),
        'groups': describe_groups(subjects, ap),
        'classes': describe_classes(subjects, ap),
        'confusions': describe_confusions(first),
        'disagreements': describe_branches(first),
        'changes': [
            card(first, *pair, other=float(second.found.scores[pair]))
            for second in subjects[1:]
            for pair in most_apart(second.found.scores - first.found.scores)
        ],
    }


def describe_groups(
    subjects: Sequence[Evidence], aps: Sequence[dict[str, np.ndarray]]
) -> list[dict[str, Any]]:
    """Gathers the figures of all classes and of each group."""
    info = subjects[0].network.class_info
    rows: list[dict[str, Any]] = [
        {'name': name, 'members': members, 'models': []}
        for name, members in class_groups(info).items()
    ]
    for one, ap in zip(subjects, aps, strict=True):
        found, predicted = one.found, one.predicted
        decided = summary_figures(
            predicted, found.targets, [c['group'] for c in info]
        )
        decided['all'] = decided['macro']
        for row in rows:
            members = row['members']
            truth, scores = found.targets[:, members], found.scores[:, members]
            error, bins = reliability(scores, truth)
            figures = {
                **NO_FIGURES,
                **decided.get(row['name'], {}),
                'ap': {
                    name: mean_by_group(values[members], {}).get('mAP')
                    for name, values in ap.items()
                },
                'silent': int((~predicted[:, members].any(0)).sum()),
                'ece': error,
                'bins': bins,
                'shift': score_shift(scores, truth)['ratio'],
                'curve': curve(scores.ravel(), truth.ravel()),
            }
            row['models'].append(figures)
    return rows


def describe_classes(
    subjects: Sequence[Evidence], aps: Sequence[dict[str, np.ndarray]]
) -> list[dict[str, Any]]:
    """Gathers the figures of each class, the most frequent first.

    Of more than :data:`MAX_CLASSES` those with the lowest AP are kept, and
    of these :data:`MAX_DETAILS` have pictures.
    """
    rows: list[dict[str, Any]] = [
        {**one, 'id': k, 'models': [], 'cards': {}}
        for k, one in enumerate(subjects[0].network.class_info)
    ]
    for one, ap in zip(subjects, aps, strict=True):
        found = one.found
        every = {'': found.scores, **found.branches}
        figures = class_figures(one.predicted, found.targets)
        for k, (row, decided) in enumerate(zip(rows, figures, strict=True)):
            known = decided['positives'] > 0
            row['models'].append(
                {
                    **decided,
                    'threshold': float(one.thresholds[k]),
                    'ap': {
                        n: float(v[k]) if known else None
                        for n, v in ap.items()
                    },
                    'curves': {
                        n: curve(scores[:, k], found.targets[:, k])
                        for n, scores in every.items()
                    },
                }
            )
    worst = np.argsort(aps[0][''], kind='stable')[:MAX_CLASSES].tolist()
    for k in worst[:MAX_DETAILS]:
        rows[k]['cards'] = worst_cards(subjects[0], k)
    kept = [rows[k] for k in sorted(worst)]
    return sorted(kept, key=lambda row: -(row['train_images'] or 0))


def curve(scores: np.ndarray, truth: np.ndarray) -> list[list[float]]:
    """Returns some points of a precision-recall curve, by rising recall."""
    hits, ranked = np.sort(scores[truth]), np.sort(scores)
    # Equal scores are found together.
    true = len(hits) - np.searchsorted(hits, hits)[::-1]
    said = len(ranked) - np.searchsorted(ranked, hits)[::-1]
    some = spread(len(hits), MAX_POINTS) if len(hits) else []
    points = np.stack([true / max(len(hits), 1), true / said], 1)
    return points[some].tolist()


def describe_confusions(subject: Evidence) -> dict[str, Any]:
    """Lists the pairs of classes that explain errors."""
    targets, predicted = subject.found.targets, subject.predicted
    found = {
        'alarms': false_alarms(targets, predicted),
        'misses': lonely_misses(targets, predicted),
    }
    try:
        table = read_labels(build_training_set(subject.network.cfg))
    # The training set may lie on another machine.
    except (OSError, ValueError):
        table = None
    if table is not None:
        trained = cooccurrence(table.matrix(targets.shape[1]))
        for row in [*found['alarms'], *found['misses']]:
            p, a = row['neighbour'], row['subject']
            row['trained'] = trained[p, a] / max(trained[a, a], 1)
    return {
        **found,
        'total_alarms': int((predicted & ~targets).sum()),
        'total_misses': int((targets & ~predicted).sum()),
    }


def card(subject: Evidence, image: int, k: int, **more: Any) -> dict[str, Any]:
    """Describes one class in one picture."""
    found, names = subject.found, subject.network.names
    truth = [names[t] for t in np.flatnonzero(found.targets[image])]
    if len(truth) > MAX_LABELS:
        truth[MAX_LABELS:] = [f'{len(truth) - MAX_LABELS} more']
    return {
        'image': image,
        'class': k,
        'name': subject.name(image),
        'score': float(found.scores[image, k]),
        'threshold': float(subject.thresholds[k]),
        'branches': {n: float(s[image, k]) for n, s in found.branches.items()},
        'present': bool(found.targets[image, k]),
        'truth': truth,
        'heats': {},
        **more,
    }


def worst_cards(subject: Evidence, k: int) -> dict[str, Any]:
    """Picks the highest scores without a class and the lowest with it."""
    present = subject.found.targets[:, k]
    order = np.argsort(-subject.found.scores[:, k], kind='stable')
    alarms = order[~present[order]][:MAX_OF_CLASS].tolist()
    misses = order[present[order]][::-1][:MAX_OF_CLASS].tolist()
    return {
        'alarms': [card(subject, image, k) for image in alarms],
        'misses': [card(subject, image, k) for image in misses],
    }


def describe_branches(subject: Evidence) -> dict[str, Any]:
    """Tells how far the branches are apart, and where most."""
    found = subject.found
    if len(found.branches) < 2:
        return {}
    uniform, rebalanced = found.branches.values()
    one, two = (
        (scores >= subject.thresholds) == found.targets
        for scores in (uniform, rebalanced)
    )
    gap = rebalanced - uniform
    return {
        'groups': [
            {
                'name': name,
                'gap': float(np.abs(gap[:, members]).mean()),
                'uniform': int((one & ~two)[:, members].sum()),
                'rebalanced': int((two & ~one)[:, members].sum()),
            }
            for name, members in class_groups(
                subject.network.class_info
            ).items()
        ],
        'cards': [card(subject, *pair) for pair in most_apart(gap)],
    }


def most_apart(gap: np.ndarray) -> list[tuple[int, int]]:
    """Lists images and classes of the largest gaps, two a class at most."""
    best = np.argsort(-np.abs(gap), 0, kind='stable')[:2]
    pairs = [
        (image, k) for row in best.tolist() for k, image in enumerate(row)
    ]
    return sorted(pairs, key=lambda pair: -abs(gap[pair]))[:MAX_SECTION]


def find_duplicates(subject: Evidence, most: int) -> dict[str, Any]:
    """Searches the training set for copies of test pictures.

    Returns:
        dict: ``searched``, the training pictures looked at, ``of`` all;
        ``copies``, how many test pictures have a copy there; ``pairs``, the
        most alike ones; or only ``note``, why nothing was searched.
    """
    if not most:
        return {'note': 'The training set was not searched.'}
    network, best = subject.network, Matches(subject.features)
    try:
        dataset = build_training_set(network.cfg)
        chosen = spread(len(dataset), most)
        batches = observe(network.model, network.cfg, dataset, chosen)
        start = 0
        for vectors, images in _bar(batches, 'training set'):
            part = np.array(chosen[start : start + len(images)])
            best.add(vectors, images, part)
            start += len(images)
    # Its files may lie on another machine, or be gone.
    except (OSError, ValueError) as error:
        return {
            'note': 'The training pictures cannot be read, so no copy of a '
            f'test picture was looked for ({_without_folders(error)}).'
        }
    pairs = []
    order = np.argsort(-best.likeness - 2 * best.same, kind='stable')
    for image in order[:MAX_SECTION].tolist():
        place = int(best.index[image])
        item = dataset[place]
        pairs.append(
            {
                'image': image,
                'name': subject.name(image),
                'train_image': place,
                'train_name': short_name(item['data_samples'].get('img_path')),
                'pixels': shrink(item['inputs']),
                'cosine': float(best.cosine[image]),
                'bits': int(best.bits[image]),
                'same': bool(best.same[image]),
            }
        )
    copies = int(best.same.sum())
    searched, size = len(chosen), len(dataset)
    return dict(searched=searched, of=size, copies=copies, pairs=pairs)


def _without_folders(error: Exception) -> str:
    """Returns an error's words; of a path only the last two parts."""
    words = first_line(error).split(' ')
    return ' '.join(short_name(w) if w.startswith('/') else w for w in words)


def add_pictures(page: dict[str, Any], subject: Evidence, cam: bool) -> str:
    """Adds thumbnails to the page, and to its cards where the model looks.

    Returns:
        str: A sentence on the maps, nothing without them.
    """
    by_image: dict[int, list[dict[str, Any]]] = {}
    kinds = [one for row in page['classes'] for one in row['cards'].values()]
    kinds += [page['disagreements'].get('cards', []), page['changes']]
    for one in (one for kind in kinds for one in kind):
        by_image.setdefault(one['image'], []).append(one)
    pixels = page['pixels'] = {}
    for pair in page['duplicates'].get('pairs', ()):
        pixels[f'n{pair["train_image"]}'] = pair.pop('pixels')
        by_image.setdefault(pair['image'], [])
    model, note = subject.network.model, ''
    looks: dict[str, Attention] = {}
    for image, cards in _bar(by_image.items(), 'pictures'):
        item = subject.dataset[image]
        pixels[f't{image}'] = shrink(item['inputs'])
        if not cam or not cards:
            continue
        data = model.data_preprocessor(pseudo_collate([item]), False)
        inputs = data['inputs'].repeat(len(cards), 1, 1, 1)
        try:
            for name in [*subject.found.branches] or ['']:
                if name not in looks:
                    looks[name] = Attention(model, inputs, name)
                heats = looks[name](inputs, [one['class'] for one in cards])
                for one, heat in zip(cards, heats, strict=True):
                    one['heats'][name] = heat_uri(heat)
        except ValueError as error:
            cam, note = False, f'Grad-CAM was left out: {error}.'
    layers = ' and '.join(look.layer for look in looks.values())
    return note or (layers and f'Grad-CAM at {layers}.')


def render(page: dict[str, Any]) -> str:
    """Renders the page, its pictures as large as :data:`MAX_BYTES` allows."""
    pixels = page['pixels']
    template = environment().get_template('report.html.j2')
    facts = {
        **page,
        'ratios': {key: p.shape[1] / p.shape[0] for key, p in pixels.items()},
        'limit_pairs': MAX_PAIRS,
    }
    bare = template.render(facts, uris={})
    # The rules around the pictures take some bytes, too.
    left = MAX_BYTES - len(bare.encode()) - 80 * len(pixels)
    return template.render(facts, uris=fit(pixels, left))


def environment() -> jinja2.Environment:
    """Returns the templates of the pages; what is filled in is escaped."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader('ltml_mm.inspection'),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    # Four decades of training pictures, from 1 on.
    found.filters['log_place'] = lambda n: min(log10(max(n, 1)) / 4, 1)
    return found


def _bar(items: Any, words: str) -> Any:
    return tqdm(items, desc=words, leave=False, disable=None)
