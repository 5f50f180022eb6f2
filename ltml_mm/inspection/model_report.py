"""Writes a page about a model: ``tools/analysis/model_report.py``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import log10
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from mmengine.dataset import pseudo_collate
from tqdm import tqdm

from ltml_cli import parse
from ltml_mm.apis.model import DEFAULT_THRESHOLD
from ltml_mm.datasets.annotations import read_labels
from ltml_mm.datasets.images import first_line
from ltml_mm.datasets.splits import cooccurrence
from ltml_mm.decisions.calibration import reliability, score_shift
from ltml_mm.decisions.choice import class_figures, summary_figures
from ltml_mm.decisions.scores import Network, load_network
from ltml_mm.decisions.thresholds import find_thresholds
from ltml_mm.evaluation import average_precision, mean_by_group
from ltml_mm.files import write_text
from ltml_mm.inspection.attention import Attention, has_grad_cam
from ltml_mm.inspection.cooccurrence_errors import (
    PairErrors,
    false_alarms,
    lonely_misses,
)
from ltml_mm.inspection.evidence import (
    Evidence,
    build_training_set,
    class_groups,
    gather,
    observe,
    short_name,
    spread,
)
from ltml_mm.inspection.neighbours import Matches, match
from ltml_mm.inspection.thumbnails import fit, heat_uri, shrink

PAGE = 'report.html'
#: What the page may take, in bytes.
MAX_BYTES = 10_000_000
#: The pictures of classes on a page, and the most of one kind in a class.
MAX_CARDS, MAX_OF_CLASS = 1800, 3
#: The rows of a table of pairs, and the cards of a section.
MAX_PAIRS, MAX_SECTION = 30, 12
CURVE_POINTS = 40
NO_FIGURES = dict.fromkeys(('precision', 'recall', 'f1'))
#: What to install for the maps.
EXTRA = 'pip install "ltml_mm[report]"'


@dataclass(frozen=True)
class Subject:
    """A model, what it says of the test set, and what it decides.

    Attributes:
        network: The model.
        evidence: Its scores and features, and the true labels.
        thresholds: Of each class, (K,).
        note: Where they come from.
        ap: AP of each class in percent, (K,), of the model, ``''``, and of
            each branch.
        predicted: Its decisions, bool (N, K).
    """

    network: Network
    evidence: Evidence
    thresholds: np.ndarray
    note: str
    ap: dict[str, np.ndarray]
    predicted: np.ndarray

    @property
    def title(self) -> str:
        """The folder and the file of the checkpoint."""
        return '/'.join(self.network.path.absolute().parts[-2:])


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the page."""
    args = parse('model-report', argv)
    out = Path(args.out)
    options = {'cfg_options': args.cfg_options, 'device': args.device}
    subject = inspect_model(
        args.config, args.checkpoint, args.thresholds, **options
    )
    other = args.compare and inspect_model(*args.compare, **options)
    if other:
        check_comparable(subject, other)
    page = describe(subject, other)
    page['duplicates'] = find_duplicates(subject, args.train_images)
    cam = '' if args.no_cam else 'looked for'
    if cam and not has_grad_cam():
        cam = f'Grad-CAM needs the package grad-cam: {EXTRA}'
        print(cam, file=sys.stderr)
    page['cam'] = cam and add_pictures(page, subject, cam == 'looked for')
    write_text(out / PAGE, render(page))
    print(f'The report is {out / PAGE}')


def inspect_model(
    config: str,
    checkpoint: str,
    thresholds: str | None = None,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> Subject:
    """Tests a model; raises what loading and testing it raise."""
    network = load_network(config, checkpoint, device, cfg_options)
    chosen, note = find_thresholds(
        checkpoint, network.digest, network.names, thresholds
    )
    evidence = gather(network)
    found = evidence.found
    values = np.full(len(network.names), DEFAULT_THRESHOLD)
    if chosen is None:
        # Not the note itself: it names folders of this machine.
        print(note, file=sys.stderr)
        note = (
            f'Every class is decided at {DEFAULT_THRESHOLD}, a guess under '
            'which rare classes are seldom named: '
            'tools/analysis/thresholds.py chooses one threshold a class.'
        )
    else:
        values = chosen.values
        note = (
            f'Thresholds for {chosen.metric}, one a class, chosen on '
            f'{chosen.chosen_on.get("kind", "other")} images.'
        )
    ap = {
        name: 100 * average_precision(scores, found.targets)
        for name, scores in {'': found.scores, **found.branches}.items()
    }
    return Subject(network, evidence, values, note, ap, found.scores >= values)


def check_comparable(first: Subject, second: Subject) -> None:
    """Refuses two models that were tested on other classes or pictures."""
    for what, key in (
        ('class', lambda s: s.network.names),
        ('picture', lambda s: s.evidence.names),
        ('labels of picture', lambda s: s.evidence.found.targets.tolist()),
    ):
        pairs = enumerate(zip_longest(key(first), key(second)))
        for index, (one, two) in pairs:
            if one != two:
                shown = f': {one!r} and {two!r}' if 'of' not in what else ''
                raise ValueError(
                    f'--compare: the test sets differ, {what} {index}{shown}; '
                    'both configs must test the same pictures'
                )


def describe(subject: Subject, other: Subject | None) -> dict[str, Any]:
    """Gathers what the page shows, but for pictures and duplicates."""
    network, found = subject.network, subject.evidence.found
    subjects = [one for one in (subject, other) if one]
    return {
        'models': [
            {
                'title': one.title,
                'config': one.network.cfg.filename,
                'note': one.note,
                'branches': list(one.evidence.found.branches),
            }
            for one in subjects
        ],
        'images': len(found.targets),
        'unlabelled': [int((~one.predicted.any(1)).sum()) for one in subjects],
        'train_images': (network.meta or {}).get('num_train_images'),
        'groups': describe_groups(subjects),
        'classes': describe_classes(subjects),
        'confusions': describe_confusions(subject),
        'disagreements': branch_cards(subject),
        'changes': [] if other is None else changed_cards(subject, other),
    }


def describe_groups(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """Gathers the figures of all classes and of each group."""
    info = subjects[0].network.class_info
    groups = class_groups(info)
    rows: list[dict[str, Any]] = [
        {'name': name, 'classes': len(members), 'models': []}
        for name, members in groups.items()
    ]
    for one in subjects:
        found = one.evidence.found
        decided = summary_figures(
            one.predicted, found.targets, [c['group'] for c in info]
        )
        for row, (name, members) in zip(rows, groups.items(), strict=True):
            truth, scores = found.targets[:, members], found.scores[:, members]
            error, bins = reliability(scores, truth)
            means = {
                branch: mean_by_group(ap[members], {}).get('mAP')
                for branch, ap in one.ap.items()
            }
            row['models'].append(
                {
                    'mAP': means.pop(''),
                    'branches': means,
                    **NO_FIGURES,
                    **decided.get('macro' if name == 'all' else name, {}),
                    'silent': int((~one.predicted[:, members].any(0)).sum()),
                    'ece': error,
                    'bins': bins,
                    'shift': score_shift(scores, truth)['ratio'],
                    'curve': curve(scores.ravel(), truth.ravel()),
                }
            )
    return rows


def describe_classes(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """Gathers the figures of each class, the most frequent first."""
    first = subjects[0]
    found = first.evidence.found
    rows: list[dict[str, Any]] = [
        {**info, 'id': k, 'test_images': n, 'models': []}
        for k, (info, n) in enumerate(
            zip(
                first.network.class_info,
                found.targets.sum(0).tolist(),
                strict=True,
            )
        )
    ]
    for one in subjects:
        found = one.evidence.found
        figures = class_figures(one.predicted, found.targets)
        for k, (row, decided) in enumerate(zip(rows, figures, strict=True)):
            truth = found.targets[:, k]
            every = {'': found.scores, **found.branches}
            row['models'].append(
                {
                    **decided,
                    'threshold': float(one.thresholds[k]),
                    'ap': {n: _number(ap[k]) for n, ap in one.ap.items()},
                    'curves': {
                        n: curve(scores[:, k], truth)
                        for n, scores in every.items()
                    },
                }
            )
    each = max(1, min(MAX_OF_CLASS, MAX_CARDS // (2 * len(rows))))
    for row in rows:
        row['cards'] = worst_cards(first, row['id'], each)
    return sorted(rows, key=lambda row: -(row['train_images'] or 0))


def curve(scores: np.ndarray, truth: np.ndarray) -> list[list[float]]:
    """Returns some points of a precision-recall curve, by rising recall."""
    hits = np.sort(scores[truth])[::-1]
    ranked = np.sort(scores)
    recall = np.arange(1, len(hits) + 1) / max(len(hits), 1)
    said = len(ranked) - np.searchsorted(ranked, hits)
    # Equal scores are found together.
    true = len(hits) - np.searchsorted(hits[::-1], hits)
    some = spread(len(hits), CURVE_POINTS) if len(hits) else []
    return np.stack([recall, true / np.maximum(said, 1)], 1)[some].tolist()


def describe_confusions(subject: Subject) -> dict[str, Any]:
    """Lists the pairs of classes that explain errors."""
    targets = subject.evidence.found.targets
    try:
        table = read_labels(build_training_set(subject.network.cfg))
        trained = cooccurrence(table.matrix(targets.shape[1]))
    # The training set may lie on another machine.
    except (OSError, ValueError):
        trained = None
    return {
        'alarms': _pairs(false_alarms(targets, subject.predicted), trained),
        'misses': _pairs(lonely_misses(targets, subject.predicted), trained),
        'total_alarms': int((subject.predicted & ~targets).sum()),
        'total_misses': int((targets & ~subject.predicted).sum()),
    }


def _pairs(
    errors: PairErrors, trained: np.ndarray | None
) -> list[dict[str, Any]]:
    """Lists the pairs that chance does not explain, the worst first."""
    rows = []
    for i in errors.order():
        p, a = int(errors.neighbour[i]), int(errors.subject[i])
        share = None
        if trained is not None and trained[a, a]:
            share = float(trained[p, a] / trained[a, a])
        rows.append(
            {
                'neighbour': p,
                'subject': a,
                'images': int(errors.images[i]),
                'errors': int(errors.errors[i]),
                'rate': float(errors.rate[i]),
                'baseline': float(errors.baseline[i]),
                'excess': float(errors.excess[i]),
                'p_value': float(errors.p_value[i]),
                'trained_together': share,
            }
        )
    return rows


def card(subject: Subject, image: int, k: int, **more: Any) -> dict[str, Any]:
    """Describes one class in one picture."""
    found, names = subject.evidence.found, subject.network.names
    return {
        'image': int(image),
        'class': int(k),
        'name': subject.evidence.names[image],
        'score': float(found.scores[image, k]),
        'threshold': float(subject.thresholds[k]),
        'branches': {n: float(s[image, k]) for n, s in found.branches.items()},
        'present': bool(found.targets[image, k]),
        'predicted': bool(subject.predicted[image, k]),
        'truth': [names[t] for t in np.flatnonzero(found.targets[image])],
        'heats': {},
        **more,
    }


def worst_cards(subject: Subject, k: int, each: int) -> dict[str, Any]:
    """Picks the highest scores without a class and the lowest with it."""
    found = subject.evidence.found
    scores, present = found.scores[:, k], found.targets[:, k]
    order = np.argsort(-scores, kind='stable')
    alarms = order[~present[order]][:each]
    misses = order[present[order]][::-1][:each]
    return {
        'alarms': [card(subject, image, k) for image in alarms],
        'misses': [card(subject, image, k) for image in misses],
    }


def branch_cards(subject: Subject) -> dict[str, Any]:
    """Tells how far the branches are apart, and where most."""
    found = subject.evidence.found
    if len(found.branches) < 2:
        return {}
    uniform, rebalanced = found.branches.values()
    groups = class_groups(subject.network.class_info)
    gap = np.abs(rebalanced - uniform)
    decided = [s >= subject.thresholds for s in (uniform, rebalanced)]
    right = [decision == found.targets for decision in decided]
    return {
        'groups': [
            {
                'name': name,
                'gap': float(gap[:, members].mean()),
                'differ': int((right[0] != right[1])[:, members].sum()),
                'right': [
                    int((right[b] & ~right[1 - b])[:, members].sum())
                    for b in (0, 1)
                ],
            }
            for name, members in groups.items()
        ],
        'cards': [card(subject, *pair) for pair in most_apart(gap)],
    }


def changed_cards(first: Subject, second: Subject) -> list[dict[str, Any]]:
    """Describes where the scores of two models differ most."""
    scores = second.evidence.found.scores
    gap = np.abs(scores - first.evidence.found.scores)
    return [
        card(first, *pair, other=float(scores[pair]))
        for pair in most_apart(gap)
    ]


def most_apart(gap: np.ndarray) -> list[tuple[int, int]]:
    """Lists images and classes of the largest values, two a class at most."""
    best = np.argsort(-gap, 0, kind='stable')[:2]
    pairs = [(int(image), k) for row in best for k, image in enumerate(row)]
    return sorted(pairs, key=lambda pair: -gap[pair])[:MAX_SECTION]


def find_duplicates(subject: Subject, most: int) -> dict[str, Any]:
    """Searches the training set for copies of test pictures.

    Returns:
        dict: ``searched``, the training pictures looked at, ``of`` all;
        ``copies``, how many test pictures have a copy there; ``pairs``, the
        most alike ones; or only ``note``, why nothing was searched.
    """
    cfg, own = subject.network.cfg, subject.evidence.features
    if not most:
        return {'note': 'The training set was not searched.'}
    best = Matches.none_yet(own.size)
    try:
        dataset = build_training_set(cfg)
        chosen = np.array(spread(len(dataset), most))
        start = 0
        model = subject.network.model
        for vectors, images in _bar(
            observe(model, cfg, dataset, chosen.tolist()), 'training set'
        ):
            part = chosen[start : start + len(images)]
            match(own, vectors, images, part, best)
            start += len(images)
    # Its files may lie on another machine, or be gone.
    except (OSError, ValueError) as error:
        return {
            'note': 'The training pictures cannot be read, so no copy of a '
            f'test picture was looked for ({first_line(error)}).'
        }
    order = np.argsort(-best.likeness - 2 * best.same, kind='stable')
    pairs = []
    for image in order[:MAX_SECTION].tolist():
        place = int(best.index[image])
        item = dataset[place]
        sample = item['data_samples']
        pairs.append(
            {
                'image': image,
                'name': subject.evidence.names[image],
                'train_image': place,
                'train_name': short_name(sample.get('img_path')),
                'pixels': shrink(item['inputs']),
                'cosine': float(best.cosine[image]),
                'bits': int(best.bits[image]),
                'same': bool(best.same[image]),
            }
        )
    return {
        'searched': len(chosen),
        'of': len(dataset),
        'copies': int(best.same.sum()),
        'pairs': pairs,
    }


def add_pictures(page: dict[str, Any], subject: Subject, cam: bool) -> str:
    """Adds thumbnails to the page, and to its cards where the model looks.

    Returns:
        str: A sentence on the maps.
    """
    cards = [
        *page['disagreements'].get('cards', ()),
        *page['changes'],
        *(
            one
            for row in page['classes']
            for kind in row['cards'].values()
            for one in kind
        ),
    ]
    pairs = page['duplicates'].get('pairs', ())
    by_image: dict[int, list[dict[str, Any]]] = {}
    for one in [*pairs, *cards]:
        by_image.setdefault(one['image'], []).append(one)
    pixels = {f'n{p["train_image"]}': p.pop('pixels') for p in pairs}
    network, dataset = subject.network.model, subject.evidence.dataset
    branches = [*subject.evidence.found.branches] or ['']
    looks: dict[str, Attention] = {}
    note = ''
    for image, found in _bar(by_image.items(), 'pictures'):
        item = dataset[image]
        pixels[f't{image}'] = shrink(item['inputs'])
        shown = [one for one in found if 'class' in one]
        if not cam or not shown:
            continue
        data = network.data_preprocessor(pseudo_collate([item]), False)
        inputs = data['inputs'].repeat(len(shown), 1, 1, 1)
        classes = [one['class'] for one in shown]
        try:
            for name in branches:
                look = looks.get(name) or Attention(network, inputs, name)
                looks[name] = look
                for one, heat in zip(
                    shown, look(inputs, classes), strict=True
                ):
                    one['heats'][name] = heat_uri(heat)
        except ValueError as error:
            cam, note = False, f'Grad-CAM was left out: {error}.'
    page['pixels'] = pixels
    layers = ' and '.join(look.layer for look in looks.values())
    return note or (layers and f'Grad-CAM at {layers}.')


def render(page: dict[str, Any]) -> str:
    """Renders the page, its pictures as large as :data:`MAX_BYTES` allows."""
    pixels = page.pop('pixels', {})
    template = environment().get_template('report.html.j2')
    sizes = {key: p.shape[1] / p.shape[0] for key, p in pixels.items()}
    names = {row['id']: row['name'] for row in page['classes']}
    facts = {
        **page,
        'names': names,
        'ratios': sizes,
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
    return tqdm(items, desc=words, leave=False)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
