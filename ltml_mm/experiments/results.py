"""The results that the finished runs of a comparison left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLAIN = 'fused'
VARIANTS = (
    PLAIN,
    'flip',
    'probs',
    'uniform',
    'rebalanced',
    'merged',
    'merged_bn',
)
# Names of the groups of classes, and the metric of each.
GROUPS = {
    'total': 'mAP',
    'head': 'mAP_head',
    'medium': 'mAP_medium',
    'tail': 'mAP_tail',
}
RESULT = 'result.json'
_ADVICE = 'delete the file to have the run made again'


@dataclass(frozen=True)
class Spec:
    """One line of a table: a row, and which of its predictions is meant.

    Attributes:
        row: Name of the row.
        variant: One of :data:`VARIANTS`.
    """

    row: str
    variant: str = PLAIN

    def __str__(self) -> str:
        plain = self.variant == PLAIN
        return self.row if plain else f'{self.row}+{self.variant}'


@dataclass(frozen=True)
class ClassResult:
    """The figures of one class in one run.

    Attributes:
        name: The class.
        count: Its training images.
        group: ``head``, ``medium`` or ``tail``.
        ap: AP in percent by variant; None where it does not exist.
    """

    name: str
    count: int
    group: str
    ap: Mapping[str, float | None]


@dataclass(frozen=True)
class Run:
    """One finished training and what it was measured to reach.

    Attributes:
        path: The file that it was read from.
        row: What was trained.
        seed: The seed of the training.
        set: The data set.
        metrics: By variant, ``mAP``, ``mAP_head`` and so on in percent;
            None, or no key, for a group without a class.
        classes: The figures of every class.
        drift: How far the branches lie apart; None with one branch.
        steps: Steps of the training.
        images_per_step: Images that a step sees.
        seconds: How long the run took.
        device: What it ran on.
        config_digest: Stands for everything that was configured.
    """

    path: Path
    row: str
    seed: int
    set: str
    metrics: Mapping[str, Mapping[str, float | None]]
    classes: tuple[ClassResult, ...]
    drift: float | None
    steps: int
    images_per_step: int
    seconds: float
    device: str
    config_digest: str


@dataclass(frozen=True)
class Runs:
    """The finished among the asked runs.

    Attributes:
        found: The finished runs, by row as asked, then by seed as asked.
        missing: Row and seed of those that are unfinished or failed.
    """

    found: tuple[Run, ...]
    missing: tuple[tuple[str, int], ...]

    def of(self, spec: Spec) -> Iterator[Run]:
        """Yields the runs that have a line's prediction."""
        for run in self.found:
            if run.row == spec.row and spec.variant in run.metrics:
                yield run

    def values(self, spec: Spec, group: str = 'total') -> dict[int, float]:
        """Collects the mAP of a line of the table.

        Args:
            spec: The line.
            group: One of :data:`GROUPS`.

        Returns:
            dict: Percent by seed, for the seeds that have it.
        """
        found = {
            run.seed: run.metrics[spec.variant].get(GROUPS[group])
            for run in self.of(spec)
        }
        return {seed: v for seed, v in found.items() if v is not None}


def parse_spec(text: str) -> Spec:
    """Reads which row and prediction a line of a table is about.

    Args:
        text: ``ROW`` or ``ROW+VARIANT``.

    Returns:
        Spec: The row and the variant, ``fused`` where none is given.

    Raises:
        ValueError: The text has another form, or there is no such variant.

    Example:
        >>> parse_spec('ltml+flip')
        Spec(row='ltml', variant='flip')
    """
    row, plus, variant = text.partition('+')
    if not re.fullmatch(r'\w[\w.-]*', row) or bool(plus) != bool(variant):
        raise ValueError(f'expected ROW or ROW+VARIANT, got {text!r}')
    if plus and variant not in VARIANTS:
        raise ValueError(
            f'{text!r}: no variant {variant!r}; there are '
            f'{", ".join(VARIANTS)}'
        )
    return Spec(row, variant or PLAIN)


def result_path(out: Path, row: str, seed: int) -> Path:
    """Returns the file that a run leaves when it has finished."""
    return out / row / f'seed_{seed}' / RESULT


def read_runs(out: Path, rows: Sequence[str], seeds: Sequence[int]) -> Runs:
    """Reads what the finished runs of a comparison reached.

    Args:
        out: Folder of the comparison.
        rows: The rows that were asked for.
        seeds: The seeds that were asked for.

    Returns:
        Runs: The finished runs, and which are missing: a run without
        ``result.json`` is unfinished or failed.

    Raises:
        ValueError: A result is broken, lies in the folder of another run,
            was measured on other classes than the first, or differs from
            one of the same row in its configuration.
    """
    found: list[Run] = []
    missing: list[tuple[str, int]] = []
    for row in dict.fromkeys(rows):
        for seed in dict.fromkeys(seeds):
            path = result_path(out, row, seed)
            if path.is_file():
                found.append(_read_run(path, row, seed))
            else:
                missing.append((row, seed))
    _check_alike(found)
    return Runs(tuple(found), tuple(missing))


def _read_run(path: Path, row: str, seed: int) -> Run:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f'{path}: no JSON ({error}); {_ADVICE}') from error
    try:
        run = _to_run(path, content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f'{path}: not the result of a run ({type(error).__name__}: '
            f'{error}); {_ADVICE}'
        ) from error
    if (run.row, run.seed) != (row, seed):
        raise ValueError(
            f'{path}: holds row {run.row!r}, seed {run.seed}, though its '
            f'folder is that of row {row!r}, seed {seed}'
        )
    return run


def _to_run(path: Path, content: Mapping[str, Any]) -> Run:
    metrics = {
        str(variant): {key: _percent(values.get(key)) for key in values}
        for variant, values in content['metrics'].items()
    }
    if not metrics or not content['classes']:
        raise ValueError('metrics or classes is empty')
    drift = content.get('drift')
    return Run(
        path,
        content['row'],
        content['seed'],
        content['set'],
        metrics,
        tuple(
            ClassResult(
                str(c['name']),
                int(c['count']),
                _group(c['group']),
                {str(v): _percent(ap) for v, ap in c['AP'].items()},
            )
            for c in content['classes']
        ),
        None if drift is None else float(drift),
        int(content['steps']),
        int(content['images_per_step']),
        float(content['seconds']),
        str(content['device']),
        str(content['config_digest']),
    )


def _percent(value: float | None) -> float | None:
    # NaN, which Python's JSON lets pass, lies in no range.
    if value is not None and not 0 <= value <= 100:
        raise ValueError(f'{value} is no percentage')
    return None if value is None else float(value)


def _group(name: str) -> str:
    if name not in GROUPS or name == 'total':
        raise ValueError(f'{name!r} is no group of classes')
    return name


def _check_alike(runs: Sequence[Run]) -> None:
    first_of_row: dict[str, Run] = {}
    for run in runs:
        if _measured_on(run) != _measured_on(runs[0]):
            raise ValueError(
                f'{run.path}: measured on another set, or on other classes '
                f'or training counts, than {runs[0].path}'
            )
        first = first_of_row.setdefault(run.row, run)
        if run.config_digest != first.config_digest:
            raise ValueError(
                f'{run.path}: trained with another configuration '
                f'(config_digest {run.config_digest}) than {first.path} '
                f'({first.config_digest}); compare them in separate folders'
            )


def _measured_on(run: Run) -> tuple[str, list[tuple[str, int, str]]]:
    return run.set, [(c.name, c.count, c.group) for c in run.classes]
