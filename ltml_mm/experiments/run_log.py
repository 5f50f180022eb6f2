"""Reads the JSON log that MMEngine's stock visualiser keeps of a training."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

LOG = 'vis_data/scalars.json'
#: Logged values by place: the epoch of a training step, or the step.
Curve = dict[float, float]


@dataclass
class RunLog:
    """What a training logged.

    Attributes:
        name: Name of the run.
        unit: What the values are logged over: ``'epoch'``, where 1.5 is in
            the middle of the second, or ``'step'``.
        train: Curves of the training steps, by name.
        val: Curves of the evaluations.
    """

    name: str
    unit: str
    train: dict[str, Curve]
    val: dict[str, Curve]


@dataclass
class _Record:
    """One line of a log: logged after so many steps, in an epoch."""

    kind: str
    step: int
    epoch: int | None
    values: dict[str, float]


def read_run(text: str) -> RunLog:
    """Reads the log of a run, of all its parts where it was resumed.

    Each part has a folder of its own, named by the time it began. From the
    first step on that a part logged, it stands in for the parts before: what
    they logged from there is of steps that were lost.

    Args:
        text: The work directory of the run, or NAME=DIR; without a name, the
            directory's own.

    Returns:
        RunLog: The curves.

    Raises:
        FileNotFoundError: The directory does not exist or holds no log.
        ValueError: A line of the log is broken, or no step was logged. A
            last line that a kill cut short is left out, with a message.
    """
    name, separator, path = text.partition('=')
    if not separator or Path(text).exists():
        name, path = Path(text).resolve().name, text
    if not Path(path).is_dir():
        raise FileNotFoundError(f'run not found: {path} is no folder')
    folder = Path(path)
    files = sorted(folder.glob(f'*/{LOG}'))
    if (folder / LOG).is_file():  # one part alone
        files = [folder / LOG]
    if not files:
        raise FileNotFoundError(f'{folder} holds no log: */{LOG} is missing')
    records: list[_Record] = []
    for file in files:
        part = _read_part(file)
        first = next((r for r in part if r.kind == 'train'), None)
        if first is not None:
            records = [r for r in records if r.step < first.step] + part
    if not records:
        raise ValueError(f'{folder}: no training step was logged')
    return _curves(name, records)


def _read_part(path: Path) -> list[_Record]:
    """Reads one file."""
    records: list[_Record] = []
    last = 0
    for number, content in _lines(path):
        # Steps have a number of their own; an evaluation has not, its step
        # is an epoch or a step and comes after the steps before.
        kind = 'train' if 'iter' in content else 'val'
        step, epoch = content['step'], content.get('epoch')
        if not all(isinstance(n, int | None) for n in (step, epoch)):
            raise ValueError(f'{path}, line {number}: step is no number')
        values = {
            key: float(value)
            for key, value in content.items()
            if isinstance(value, int | float)
        }
        last = max(last, step)
        records.append(_Record(kind, last, epoch, values))
    return records


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = path.read_bytes().split(b'\n')
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                print(
                    f'{path}, line {number}: cut short, left out',
                    file=sys.stderr,
                )
                return
            raise ValueError(
                f'{path}, line {number} is no JSON: {error}'
            ) from error
        if not isinstance(content, dict) or 'step' not in content:
            raise ValueError(f'{path}, line {number} is no record of a step')
        yield number, content


def _curves(name: str, records: list[_Record]) -> RunLog:
    steps = [r for r in records if r.kind == 'train']
    by_epoch = all(r.epoch is not None for r in steps)
    length = _epoch_length(steps) if by_epoch else 1
    curves: dict[str, dict[str, Curve]] = {'train': {}, 'val': {}}
    for record in records:
        place = record.step / length
        if by_epoch and record.kind == 'val':
            place = record.values['step']
        for key, value in record.values.items():
            curves[record.kind].setdefault(key, {})[place] = value
    return RunLog(name, 'epoch' if by_epoch else 'step', **curves)


def _epoch_length(steps: list[_Record]) -> float:
    """Steps of an epoch.

    Every epoch logs first after the same number of steps. Where a single
    epoch was logged, it is taken to end with the last step logged.
    """
    first: dict[int, int] = {}
    for record in steps:
        first.setdefault(record.epoch or 1, record.step)
    epochs = sorted(first)
    lengths = [(first[b] - first[a]) / (b - a) for a, b in pairwise(epochs)]
    at_least = max(math.ceil(r.step / (r.epoch or 1)) for r in steps)
    return max(statistics.median(lengths or [0]), at_least)
