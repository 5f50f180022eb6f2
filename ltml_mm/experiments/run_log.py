"""Reads the JSON log that MMEngine's stock visualiser keeps of a training."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

LOG = '*/vis_data/scalars.json'
#: One line of a log, after the number of steps at which it was written.
Record = tuple[int, dict[str, Any]]


@dataclass
class RunLog:
    """The logged values of a training.

    Attributes:
        name: Name of the run.
        unit: What the values are logged over: ``'epoch'``, where 1.5 is in
            the middle of the second, or ``'step'``.
        curves: By logged name, the values by place: the epoch or the step.
    """

    name: str
    unit: str
    curves: dict[str, dict[float, float]] = field(default_factory=dict)


def read_log(text: str) -> RunLog:
    """Reads the log of a run, ``DIR`` or ``NAME=DIR``, by all its parts.

    Each part has a folder of its own, named by the time it began. From the
    first step on that a part logged, it stands in for the parts before: what
    they logged from there is of steps that were lost.

    Raises:
        FileNotFoundError: The directory holds no log.
        ValueError: A line of the log is broken, or no step was logged. A
            last line that a kill cut short is left out, with a message.
    """
    name, separator, path = text.partition('=')
    if not separator or Path(text).exists():
        name, path = Path(text).resolve().name, text
    files = sorted(Path(path).glob(LOG))
    if not files:
        raise FileNotFoundError(f'{path} holds no log: {LOG} is missing')
    records: list[Record] = []
    for file in files:
        part = _read_part(file)
        first = next((at for at, r in part if 'iter' in r), None)
        if first is not None:
            records = [(at, r) for at, r in records if at < first] + part
    if not records:
        raise ValueError(f'{path}: no training step was logged')
    steps = [(at, r['epoch']) for at, r in records if 'epoch' in r]
    length = _epoch_length(steps) if steps else 1
    log = RunLog(name, 'epoch' if steps else 'step')
    for at, record in records:
        is_epoch = steps and 'iter' not in record
        place = record['step'] if is_epoch else at / length
        for key, value in record.items():
            if isinstance(value, int | float):
                log.curves.setdefault(key, {})[place] = float(value)
    return log


def _read_part(path: Path) -> list[Record]:
    records: list[Record] = []
    last = 0
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            # The step of an evaluation is an epoch or a step; either way it
            # comes after the training steps before.
            last = max(last, record['step'])
        except (ValueError, TypeError, KeyError) as error:
            where = f'{path}, line {number}'
            if number < len(lines):
                raise ValueError(
                    f'{where} is no record of a step: {error!r}'
                ) from error
            print(f'{where}: cut short, left out', file=sys.stderr)
        else:
            records.append((last, record))
    return records


def _epoch_length(steps: list[tuple[int, int]]) -> float:
    """Returns the steps of an epoch, from the step and epoch of records.

    Every epoch logs first after the same number of steps. Where a single
    epoch was logged, it is taken to end with the last step logged.
    """
    at, epochs = np.array(steps).T
    epochs, first = np.unique(epochs, return_index=True)
    lengths = np.diff(at[first]) / np.diff(epochs)
    return float(np.median(lengths) if len(lengths) else at[-1])
