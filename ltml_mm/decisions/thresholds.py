"""The file of thresholds: one a class, for one model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltml_mm.datasets.annotations import load_json
from ltml_mm.files import write_json

#: The version of the file's format.
FORMAT = 1
#: The file's name, in the folder of the checkpoint.
FILE_NAME = 'thresholds.json'
#: Scores are kept so far from 0 and 1 before their logits are taken.
MARGIN = 1e-7


class OtherModelError(ValueError):
    """Thresholds belong to another model than the one at hand."""


@dataclass(frozen=True)
class Thresholds:
    """One threshold a class, and what is known of them.

    The thresholds are of the scores that the model gives, uncalibrated.
    Calibration is monotone, so it changes no decision.

    Attributes:
        model: ``name``, the checkpoint's, and ``sha256``, see
            :func:`weights_digest`.
        metric: What was asked for: ``'f1'``, ``'precision=0.9'`` and so on.
        chosen_on: The images: ``kind`` (``'validation'`` or
            ``'cross-fit'``), ``images``, ``file`` and its ``sha256`` where
            there is one, and ``note``, a sentence on what that means.
        classes: For each class, in the order of the scores, ``name``,
            ``group``, ``train_images``, ``positives`` (among the images),
            ``threshold``, ``own_threshold`` (None for a class without a
            positive), and ``precision``, ``recall`` and ``f1``, each None
            or ``[value, low, high]`` from 0 to 1.
        summary: The same three figures as means over classes, by
            ``macro`` and the groups, and pooled, as ``micro``.
        calibration: None, or ``method``, ``slope`` and ``offset``: the
            calibrated score of class k is
            ``sigmoid(slope[k] * logit(score) + offset[k])``.
    """

    model: Mapping[str, str]
    metric: str
    chosen_on: Mapping[str, Any]
    classes: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] | None = None

    @property
    def names(self) -> list[str]:
        """The K class names."""
        return [str(row['name']) for row in self.classes]

    @property
    def groups(self) -> list[str | None]:
        """The group of each class."""
        return [row.get('group') for row in self.classes]

    @property
    def values(self) -> np.ndarray:
        """The K thresholds, float64."""
        return np.array([row['threshold'] for row in self.classes], float)

    def decide(self, scores: np.ndarray) -> np.ndarray:
        """Tells which scores (..., K) are at least their class's threshold."""
        return np.asarray(scores, float) >= self.values

    def calibrate(self, scores: np.ndarray) -> np.ndarray:
        """Returns the calibrated scores, float64 (..., K).

        Raises:
            ValueError: The file holds no calibration.
        """
        if self.calibration is None:
            raise ValueError(
                'the thresholds hold no calibration; write them anew with '
                'tools/analysis/thresholds.py --calibration platt'
            )
        return calibrate(scores, self.calibration)

    def check(self, digest: str, names: Sequence[str], source: Any) -> None:
        """Refuses a model by its digest or its class names.

        Raises:
            OtherModelError: The classes or the weights are others; names
                ``source``, the file of the thresholds.
        """
        for index, pair in enumerate(zip_longest(self.names, names)):
            there, here = ('missing' if n is None else repr(n) for n in pair)
            if there != here:
                raise OtherModelError(
                    f'{source} holds thresholds of other classes '
                    f'({len(self.names)}; the model has {len(names)}): class '
                    f'{index} is {there} there, {here} here'
                )
        if digest != self.model['sha256']:
            raise OtherModelError(
                f'{source} holds the thresholds of another model, '
                f'{self.model["name"]}: its weights are not those at hand; '
                'choose thresholds for these with tools/analysis/'
                'thresholds.py CONFIG CKPT --out FILE, and give --thresholds'
            )


def logit(scores: Any) -> np.ndarray:
    """Returns the logits of scores, which are clipped at MARGIN."""
    inner = np.clip(np.asarray(scores, float), MARGIN, 1 - MARGIN)
    return np.log(inner) - np.log1p(-inner)


def sigmoid(logits: Any) -> np.ndarray:
    """Returns the scores of logits; none overflows."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, float)))


def calibrate(scores: Any, maps: Mapping[str, Any]) -> np.ndarray:
    """Maps scores by ``slope`` and ``offset`` of each class, (..., K)."""
    slope, offset = (np.array(maps[k], float) for k in ('slope', 'offset'))
    return sigmoid(slope * logit(scores) + offset)


def weights_digest(state_dict: Mapping[str, Any]) -> str:
    """Returns a fingerprint of a model's weights.

    It is the SHA-256 of the names, dtypes, shapes and bytes of all tensors,
    by name: equal for a checkpoint, its copy as safetensors, and the model
    that holds them. A merged network has other weights, hence another
    fingerprint, as it has other scores.
    """
    digest = hashlib.sha256()
    # A model that MMEngine wraps, in DDP or EMA, saves under this prefix.
    plain = {k.removeprefix('module.'): v for k, v in state_dict.items()}
    for name in sorted(plain):
        value = plain[name]
        if not isinstance(value, torch.Tensor):
            continue
        value = value.detach().cpu().contiguous()
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}\n'.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_thresholds(path: str | Path, thresholds: Thresholds) -> None:
    """Writes the file atomically."""
    content = {
        'format': FORMAT,
        'model': dict(thresholds.model),
        'metric': thresholds.metric,
        'chosen_on': dict(thresholds.chosen_on),
        'calibration': thresholds.calibration,
        'summary': dict(thresholds.summary),
        'classes': [dict(row) for row in thresholds.classes],
    }
    write_json(path, content)


def read_thresholds(path: str | Path) -> Thresholds:
    """Reads a file of thresholds.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not a file of thresholds, or of another version;
            names the entry that is wrong.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'no such file of thresholds: {path}')
    return parse_thresholds(load_json(str(path)), path)


def parse_thresholds(content: Any, source: Any) -> Thresholds:
    """Reads the content of a file of thresholds, see read_thresholds."""
    if not isinstance(content, Mapping) or 'format' not in content:
        raise ValueError(
            f'{source} is not a file of thresholds; '
            'tools/analysis/thresholds.py writes one'
        )
    if content['format'] != FORMAT:
        raise ValueError(
            f'{source} has the format {content["format"]!r}, this version '
            f'reads {FORMAT}'
        )
    try:
        found = Thresholds(
            {key: str(content['model'][key]) for key in ('name', 'sha256')},
            str(content['metric']),
            dict(content['chosen_on']),
            [dict(row) for row in content['classes']],
            dict(content.get('summary') or {}),
            content.get('calibration'),
        )
        names = found.names
        values = [row['threshold'] for row in found.classes]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{source} is not a whole file of thresholds: '
            f'{type(error).__name__} {error}'
        ) from error
    if not names or len(set(names)) != len(names):
        raise ValueError(f'{source}: its classes are not distinct names')
    for name, value in zip(names, values, strict=True):
        number = isinstance(value, (int, float)) and type(value) is not bool
        if not number or not 0 <= value <= 1:
            raise ValueError(
                f'{source}: the threshold of {name} must be a number from 0 '
                f'to 1, got {value!r}'
            )
    _check_calibration(found.calibration, len(names), source)
    return found


def _check_calibration(calibration: Any, count: int, source: Any) -> None:
    if calibration is None:
        return
    for key, least in (('slope', 0.0), ('offset', -np.inf)):
        row = calibration.get(key) if isinstance(calibration, dict) else None
        if (
            not isinstance(row, list)
            or len(row) != count
            or not all(type(v) in (int, float) and v > least for v in row)
        ):
            raise ValueError(
                f'{source}: "{key}" of its calibration must list {count} '
                f'numbers{" above 0" if key == "slope" else ""}'
            )


def find_thresholds(
    checkpoint: str | Path,
    digest: str,
    names: Sequence[str],
    given: str | Path | None = None,
) -> tuple[Thresholds | None, str]:
    """Finds the thresholds of a model, beside its checkpoint or as given.

    Returns:
        tuple: The thresholds, and their file; or None, and one line that
        says why there are none and what to do.

    Raises:
        FileNotFoundError: ``given`` does not exist.
        OtherModelError: ``given`` is of another model or other classes.
        ValueError: A file is broken.
    """
    path = Path(given or Path(checkpoint).parent / FILE_NAME)
    advice = (
        'every class is decided at 0.5, which is a guess under which rare '
        'classes are seldom named; tools/analysis/thresholds.py CONFIG CKPT '
        'chooses one threshold a class'
    )
    if given is None and not path.is_file():
        return None, f'no {FILE_NAME} beside {checkpoint}: {advice}'
    found = read_thresholds(path)
    try:
        found.check(digest, names, path)
    except OtherModelError as error:
        if given is not None:
            raise
        return None, f'{error}. Until then {advice.split(";")[0]}'
    return found, str(path)
