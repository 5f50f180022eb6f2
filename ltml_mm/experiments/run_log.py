"""Reads the JSON log that MMEngine's stock visualiser keeps of a training."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LOG = 'vis_data/scalars.json'
#: Logged values by place: the epoch of a training step, or the step.
Curve = dict[float, float]
#: One line of a log, after the number of steps at which it was written.
Record = tuple[int, dict[str, Any]]


@dataclass
class RunLog:
    """The logged values of a training.

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
        FileNotFoundError: The directory holds no log.
        ValueError: A line of the log is broken, or no step was logged. A
            last line that a kill cut short is left out, with a message.
    """
    name, separator, path = text.partition('=')
    if not separator or Path(text).exists():
        name, path = Path(text).resolve().name, text
    # One part alone has its log in the folder itself.
    files = [*Path(path).glob(LOG)] or sorted(Path(path).glob(f'*/{LOG}'))
    if not files:
        raise FileNotFoundError(f'{path} holds no log: */{LOG} is missing')
    records: list[Record] = []
    for file in files:
        part = _read_part(file)
        first = next((at for at, r in part if 'iter' in r), None)
        if first is not None:
            records = [(at, r) for at, r in records if at < first] + part
    if not records:
        raise ValueError(f'{path}: no training step was logged')
    return _curves(name, records)


def _read_part(path: Path) -> list[Record]:
    records: list[Record] = []
    last = 0
    lines = path.read_bytes().split(b'\n')
    for number, line in enumerate(lines, 1):
        where = f'{path}, line {number}'
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                print(f'{where}: cut short, left out', file=sys.stderr)
                break
            raise ValueError(f'{where} is no JSON: {error}') from error
        step = record.get('step') if isinstance(record, dict) else None
        if not isinstance(step, int):
            raise ValueError(f'{where} is no record of a step')
        # The step of an evaluation is an epoch or a step; either way it
        # comes after the training steps before.
        last = max(last, step)
        records.append((last, record))
    return records


def _curves(name: str, records: list[Record]) -> RunLog:
    steps = [(at, record) for at, record in records if 'iter' in record]
    by_epoch = all('epoch' in record for _, record in steps)
    length = _epoch_length(steps) if by_epoch else 1
    log = RunLog(name, 'epoch' if by_epoch else 'step', {}, {})
    for at, record in records:
        is_step = 'iter' in record
        curves = log.train if is_step else log.val
        place = at / length if is_step or not by_epoch else record['step']
        for key, value in record.items():
            if isinstance(value, int | float):
                curves.setdefault(key, {})[place] = float(value)
    return log


def _epoch_length(steps: list[Record]) -> float:
    """Returns the steps of an epoch.

    Every epoch logs first after the same number of steps. Where a single
    epoch was logged, it is taken to end with the last step logged.
    """
    first: dict[int, int] = {}
    for at, record in steps:
        first.setdefault(record['epoch'], at)
    lengths = np.diff([*first.values()]) / np.diff([*first])
    at_least = max(math.ceil(at / max(r['epoch'], 1)) for at, r in steps)
    return max(float(np.median(lengths)) if len(lengths) else 0, at_least)
