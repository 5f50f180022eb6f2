"""Chooses a value of the config for every row, on images held out."""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS

from ltml_cli.options import parse_cfg_options
from ltml_mm.apis import config
from ltml_mm.apis.learning_rate import fill_learning_rate
from ltml_mm.apis.model import scope_of
from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.datasets.annotations import read_labels
from ltml_mm.datasets.splits import stratified_holdout
from ltml_mm.datasets.two_stream import innermost_datasets
from ltml_mm.decisions.selection import no_validation
from ltml_mm.engine.hooks.guard_hooks import images_of, share_images
from ltml_mm.evaluation.report import table
from ltml_mm.experiments.results import GROUPS, read_results
from ltml_mm.experiments.rows import Row, build_config, chooses
from ltml_mm.experiments.runs import Run, plan_runs
from ltml_mm.files import file_sha256, write_json, write_text

#: Where the runs that choose lie, below those of the table.
FOLDER = 'tune'
#: Values that a row tries beyond those asked for.
FURTHER = 3
#: Points of mAP within which a value counts as good as the best one.
FLAT = 1.0
#: The share held out where neither option nor set says what to choose on.
FRACTION = 0.3

MakeRuns = Callable[[Sequence[Run], Mapping[str, Config]], list[Run]]


@dataclass
class Search:
    """The values that a row has tried.

    Attributes:
        row: The row.
        key: The entry of the config.
        given: The values that were asked for.
        scores: By value, ascending, the total mAP of every seed in percent;
            none where a run failed.
    """

    row: Row
    key: str
    given: Sequence[Any]
    scores: dict[Any, list[float]] = field(default_factory=dict)

    @property
    def best(self) -> Any:
        """The value with the highest mean, the first of equal ones."""
        means = {v: np.mean(s) for v, s in self.scores.items() if s}
        return max(means, key=lambda v: means[v], default=None)

    def next_value(self) -> Any:
        """Returns a value past the edge where the best one stands at it.

        Positive numbers go on by the ratio of the last two, others by their
        difference, never below 0 where none is. None where the best is
        inside, the values are no numbers, or :data:`FURTHER` were added.
        """
        numbers = [*self.scores]
        if not all(map(_is_number, numbers)) or self.best is None:
            return None
        if self.best not in (numbers[0], numbers[-1]) or len(numbers) < 2:
            return None
        if len(numbers) - len(self.given) >= FURTHER:
            return None
        if self.best == numbers[0]:
            numbers.reverse()
        before, last = numbers[-2:]
        positive = min(numbers) > 0
        value = last * last / before if positive else 2 * last - before
        whole = all(isinstance(number, int) for number in numbers)
        value = round(value) if whole else float(f'{value:.6g}')
        outside = value < 0 <= min(numbers) or (positive and value <= 0)
        return None if outside or value in self.scores else value

    def row_of(self, value: Any) -> Row:
        """Returns the row that is trained with a value."""
        text = re.sub(r'[^\w-]+', '_', str(value)).strip('_')
        name = f'{self.row.name}-{self.key.split(".")[-1]}{text}'
        overrides = {**self.row.overrides, self.key: value}
        return replace(self.row, name=name, overrides=overrides)

    def tuned(self) -> Row:
        """Returns the row with the value that was best."""
        overrides = {**self.row.overrides, self.key: self.best}
        return replace(self.row, overrides=overrides)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def parse_tuning(texts: Sequence[str]) -> tuple[str, list[Any], bool]:
    """Reads ``--tune KEY=V1,V2,...``.

    Returns:
        tuple: The key, the values, and whether they are factors (``x0.5``)
        of what each row has.

    Raises:
        ValueError: There are several keys, fewer than two values, one twice,
            or factors beside values.

    Examples:
        >>> parse_tuning(['optim_wrapper.optimizer.lr=x0.5,x1,x2'])
        ('optim_wrapper.optimizer.lr', [0.5, 1.0, 2.0], True)
    """
    if len(texts) > 1:
        raise ValueError(
            f'--tune takes one key, got {" and ".join(texts)}: tune the one '
            'that matters most, then set it in --cfg-options or in the rows '
            'and tune the other'
        )
    key, _, rest = texts[0].partition('=')
    parts = [part for part in re.split(r',(?![^\[(]*[\])])', rest) if part]
    factors = [re.fullmatch(r'x(\d.*|\.\d.*)', part) for part in parts]
    relative = any(factors)
    if not key or len(parts) < 2 or (relative and not all(factors)):
        raise ValueError(
            f'--tune {texts[0]}: expected KEY=V1,V2,... with two values at '
            "least, or with factors of every row's own, KEY=x0.5,x1,x2"
        )
    numbers = [part.removeprefix('x') if relative else part for part in parts]
    values = [_frozen(parse_cfg_options([f'{key}={n}'])[key]) for n in numbers]
    if relative and not all(_is_number(v) and v > 0 for v in values):
        raise ValueError(f'--tune {texts[0]}: a factor is no positive number')
    if any(value in values[:i] for i, value in enumerate(values)):
        raise ValueError(f'--tune {texts[0]}: a value stands there twice')
    if all(map(_is_number, values)):
        values.sort()
    return key, [float(v) for v in values] if relative else values, relative


def _frozen(value: Any) -> Any:
    """Makes tuples of lists: values are the keys of a dict."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        raise ValueError(f'--tune takes no dict as a value, got {value}')
    return value


def plan_searches(args: argparse.Namespace, rows: Sequence[Row]) -> list:
    """Makes the search of every row, without a score yet.

    Raises:
        ValueError: The option is broken, a row sets the key itself, or has
            no number there that a factor could multiply.
    """
    key, values, relative = parse_tuning(args.tune)
    searches = []
    for row in rows:
        if key in row.overrides:
            raise ValueError(
                f'--tune {key}: row {row.name} sets it to '
                f'{row.overrides[key]!r}; leave out one of the two'
            )
        own = values
        if relative:
            cfg = build_config(row, args)
            fill_learning_rate(cfg)  # a factor of None is one of the rule's
            default = _entry(cfg, key)
            if not _is_number(default):
                raise ValueError(
                    f'--tune {key}: row {row.name} has {default!r} there, '
                    'which a factor cannot multiply; give the values'
                )
            own = [float(f'{factor * default:.6g}') for factor in values]
        searches.append(Search(row, key, own, {v: [] for v in own}))
    return searches


def _entry(cfg: Any, key: str) -> Any:
    """Returns an entry of a config, None where there is none."""
    for part in key.split('.'):
        try:
            cfg = (
                cfg[int(part)] if isinstance(cfg, (list, tuple)) else cfg[part]
            )
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return cfg


def plan_values(
    args: argparse.Namespace,
    search: Search,
    values: Sequence[Any],
    change: Callable[[dict[str, Config]], None] | None = None,
) -> tuple[list[Run], dict[str, Config]]:
    """Plans the runs of a search's values; returns their configs, too."""
    configs = {}
    for value in values:
        row = search.row_of(value)
        cfg = build_config(row, args)
        hold_out(cfg, args)
        if args.data == 'custom':
            config.fit_to_data(cfg)  # There are fewer images now.
        configs[row.name] = cfg
    if change is not None:
        change(configs)
    inner = argparse.Namespace(**vars(args))
    inner.out, inner.keep_checkpoints = args.out / FOLDER, False
    return plan_runs(inner, configs, args.tune_seeds, {}), configs


def tune_rows(
    args: argparse.Namespace,
    searches: Sequence[Search],
    make_runs: MakeRuns,
    change: Callable[[dict[str, Config]], None] | None = None,
) -> None:
    """Makes the runs of all searches and fills in their scores, in place.

    A value of which a run failed has no score and is not tried again.
    ``make_runs`` makes the missing ones of some runs and returns the failed.
    """
    wanted = [(search, list(search.given)) for search in searches]
    while wanted:
        runs: list[Run] = []
        configs: dict[str, Config] = {}
        for search, values in wanted:
            more, own = plan_values(args, search, values, change)
            runs, configs = runs + more, {**configs, **own}
        runs.sort(key=lambda run: args.tune_seeds.index(run.seed))
        try:
            make_runs(runs, configs)
        finally:  # Also where it was stopped, for the report.
            for search, values in wanted:
                for value in values:
                    search.scores[value] = _scores(args, search, value)
                if all(map(_is_number, search.scores)):
                    search.scores = dict(sorted(search.scores.items()))
        further = [(search, search.next_value()) for search, _ in wanted]
        wanted = [(s, [value]) for s, value in further if value is not None]


def _scores(args: argparse.Namespace, search: Search, value: Any) -> list:
    """Reads the total mAP of every seed; none where one is missing."""
    found = _results(args, search, value)
    scores = [result['metrics']['fused']['mAP'] for result in found]
    return scores if len(scores) == len(args.tune_seeds) else []


def _results(args: argparse.Namespace, search: Search, value: Any) -> list:
    name = search.row_of(value).name
    return read_results(args.out / FOLDER, [name], args.tune_seeds).found


def hold_out(cfg: Config, args: argparse.Namespace) -> None:
    """Lets a complete config train on a part and test on others, in place.

    These are a stratified part of the training set, or those of
    ``--tune-on``; of a set with ``val.json`` that file, where neither it nor
    ``--tune-fraction`` is given. The test set is not read.

    Raises:
        FileNotFoundError: There is no such file to choose on.
        ValueError: It is the test set, or the images cannot be held out.
    """
    leaves = innermost_datasets(cfg.train_dataloader)
    tested = innermost_datasets(cfg.test_dataloader)
    if len(leaves) > 1 or len(tested) > 1:
        raise ValueError('--tune needs one training and one test set')
    train, test = leaves[0], tested[0]
    files = train.get('type') in config.FILE_DATASETS
    root = Path(train.get('data_root') or '')
    on = args.tune_on
    if on is None and args.tune_fraction is None and files:
        on = (
            config.VALIDATION if (root / config.VALIDATION).is_file() else None
        )
    own = deepcopy(train)
    own.update(pipeline=test.pipeline, test_mode=True)
    if on is not None:
        if not files:
            raise ValueError(f'--tune-on: {train.type} reads no file')
        path = root / on if (root / on).is_file() else Path(on)
        if not path.is_file():
            raise FileNotFoundError(f'--tune-on: no {on} here or in {root}')
        own = deepcopy(test)
        own.ann_file = str(path.resolve())
        if reason := no_validation(cfg, dict(dataset=own)):
            raise ValueError(
                f'--tune-on {on}: {reason}: no value may be chosen on it; '
                'give --tune-fraction'
            )
    else:
        fraction = args.tune_fraction or FRACTION
        with DefaultScope.overwrite_default_scope(scope_of(cfg)):
            dataset = DATASETS.build(
                {**train, 'pipeline': [], 'lazy_init': False}
            )
        labels = read_labels(dataset).matrix(len(dataset.metainfo['classes']))
        held = stratified_holdout(labels, fraction)
        kept = np.setdiff1d(np.arange(len(labels)), held)
        counts = tuple(labels[kept].sum(0).tolist())
        known = ClassStatistics(counts, len(kept)).to_metainfo()
        if files:
            folder = args.out / FOLDER / 'data'
            source = Path(root, train.ann_file)
            parts = {'train': kept, 'val': held}
            train.ann_file, own.ann_file = _write_parts(
                source, folder, fraction, parts, known
            )
        else:
            train.indices, own.indices = kept.tolist(), held.tolist()
            own.metainfo = {**dict(own.get('metainfo') or {}), **known}
    if chooses(cfg):
        validated = images_of(cfg.val_dataloader)
        if share_images(validated, images_of(cfg.test_dataloader)):
            raise ValueError(
                '--tune: the validation that chooses the checkpoint reads '
                'the test set: put a val.json beside train.json'
            )
        if share_images(validated, images_of(dict(dataset=own))):
            raise ValueError(
                '--tune: the validation chooses the checkpoint on the images '
                'that a value would be chosen on: give --tune-fraction'
            )
    holder = cfg.test_dataloader
    while 'dataset' in holder.dataset:
        holder = holder.dataset
    holder.dataset = own
    # Its counts are those of the images that are left to train on.
    config.complete_config(cfg)


def _write_parts(
    source: Path,
    folder: Path,
    fraction: float,
    parts: Mapping[str, np.ndarray],
    known: Mapping[str, Any],
) -> list[str]:
    """Writes parts of an annotation file; returns their absolute paths."""
    content = json.loads(source.read_text(encoding='utf-8'))
    listed = content['data_list']
    if len(listed) != sum(map(len, parts.values())):
        raise ValueError(
            f'{source}: the config trains on a part of its images alone; '
            'give --tune-on'
        )
    digest = file_sha256(source)[:12]
    paths = []
    for part, indices in parts.items():
        path = folder.absolute() / f'{part}_{digest}_{fraction:g}.json'
        metainfo = {**content.get('metainfo', {}), **known}
        chosen = [listed[i] for i in indices]
        text = {'metainfo': metainfo, 'data_list': chosen}
        if not path.is_file():
            write_json(path, text)
        paths.append(str(path))
    return paths


def write_tuning(args: argparse.Namespace, searches: Sequence[Search]) -> None:
    """Writes ``tuning.csv``: every run that chose, in full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    facts = ('steps', 'images_per_step', 'seconds', 'device')
    writer.writerow(['row', 'key', 'value', 'chosen', 'seed', *GROUPS, *facts])
    for search in searches:
        for value in search.scores:
            start = [search.row.name, search.key, value, value == search.best]
            found = _results(args, search, value)
            for result in found:
                metrics = result['metrics']['fused']
                writer.writerow(
                    [*start, result['seed']]
                    + [metrics.get(key) for key in GROUPS.values()]
                    + [result[key] for key in facts]
                )
            if not found:
                writer.writerow(
                    [*start, *[''] * (1 + len(GROUPS) + len(facts))]
                )
    write_text(args.out / 'tuning.csv', file.getvalue())


def render_choices(
    args: argparse.Namespace, searches: Sequence[Search]
) -> str:
    """Renders, as Markdown, what was chosen and how flat each choice is."""
    key = searches[0].key
    body, edges, failed = [], [], []
    for search in searches:
        name, best = search.row.name, search.best
        failed += [f'{name} {v}' for v, s in search.scores.items() if not s]
        if best is None:
            body.append([name, *'-----'])
            continue
        means = {v: np.mean(s) for v, s in search.scores.items() if s}
        tried = [*means]
        place = tried.index(best)
        beside = ['-', '-']
        for side, other in enumerate((place - 1, place + 1)):
            if 0 <= other < len(tried):
                value = tried[other]
                beside[side] = f'{means[value] - means[best]:+.2f} at {value}'
        near = [v for v in tried if means[v] >= means[best] - FLAT]
        flat = ', '.join(map(str, near))
        text = f'{means[best]:.2f}'
        if len(search.scores[best]) > 1:
            text += f' ± {np.std(search.scores[best], ddof=1):.2f}'
        body.append([name, str(best), text, *beside, flat])
        if '-' in beside and all(map(_is_number, tried)):
            edges.append(f'{name} at {best}')
    head = ['row', key, 'mAP', 'below it', 'above it']
    told = (
        f'The value of `{key}` with the highest total mAP, for every row by '
        f'itself, on {_told_images(args)} (seed '
        f'{", ".join(map(str, args.tune_seeds))}); the test set was not read. '
        f'Values within {FLAT:g} point of the best are not told apart by so '
        'few runs: the last column lists them.'
    )
    notes = []
    if edges:
        notes.append(
            'The best value stands at the edge of what was tried, after up to '
            f'{FURTHER} values past the edge: {"; ".join(edges)}.'
        )
    if failed:
        notes.append(f'No result (failed or unfinished): {"; ".join(failed)}.')
    rows = table([*head, f'within {FLAT:g} point'], body)
    return '\n\n'.join(['## Chosen values', told, rows, *notes])


def _told_images(args: argparse.Namespace) -> str:
    if args.tune_on is not None:
        return f'{args.tune_on}, after training on all training images'
    share = f'{args.tune_fraction or FRACTION:.0%}'
    told = f'{share} of the training images, after training on the rest'
    if args.tune_fraction is None:
        return f'{config.VALIDATION} where the set has one, else on {told}'
    return told
