"""Reads, finds and loads checkpoints, and refuses those that do not fit."""

from __future__ import annotations

import logging
import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log

from ltml_cli.run_parsers import SAFETENSORS
from ltml_mm import files
from ltml_mm.datasets.images import first_line
from ltml_mm.engine.hooks.checkpoint_hooks import compare_state_dicts


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says why."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a local checkpoint on the CPU without running anything in it.

    Of a file of safetensors these are the weights, and the header's ``meta``.

    Raises:
        CheckpointError: The file is missing, truncated, changed since it was
            written (see :mod:`ltml_mm.files`), holds no ``state_dict``, or
            objects of classes that a checkpoint does not need.
    """
    if not Path(path).is_file():
        raise CheckpointError(f'checkpoint not found: {path}')
    if damage := files.find_damage(path):
        raise CheckpointError(f'{path} {damage}')
    try:
        if str(path).endswith(SAFETENSORS):
            return files.read_safetensors(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    try:
        # Not torch's context manager: leaving it would forbid the classes
        # to the loaders that come after.
        files.allow_mmengine_checkpoints()
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, error)) from error
    except OSError:
        raise
    # A damaged pickle can raise nearly anything.
    except Exception as error:
        raise CheckpointError(
            f'{path} is truncated or no checkpoint ({first_line(error)})'
        ) from error
    content = isinstance(checkpoint, dict) and checkpoint.get('state_dict')
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) for key in content
    ):
        raise CheckpointError(
            f'{path} holds no "state_dict": it is not a checkpoint of MMEngine'
        )
    return checkpoint


def find_whole_checkpoint(work_dir: str | Path) -> str | None:
    """Finds the newest checkpoint of a run that can be resumed from.

    That is the one that ``last_checkpoint`` names or, where it is damaged,
    the one before it; every one that is passed over is named in a warning.
    None where there is no checkpoint at all.

    Raises:
        CheckpointError: There are checkpoints, but none of them is whole.
    """
    problems = []
    for path in _candidates(Path(work_dir)):
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            words = f'{problem}; resuming from {path} in its place'
            print_log(words, logger='current', level=logging.WARNING)
        return str(path)
    if problems:
        raise CheckpointError(
            f'no whole checkpoint in {work_dir}: {"; ".join(problems)}'
        )
    return None


def load_weights(
    model: torch.nn.Module, state_dict: Mapping[str, Any], path: str | Path
) -> None:
    """Loads all weights of a model.

    Raises:
        CheckpointError: A weight is missing, unexpected or of another shape.
    """
    own = model.state_dict()
    # Tables that the model computes anew drop out of whatever is loaded.
    recomputed = model.load_state_dict(own, strict=False).missing_keys
    try:
        missing, unexpected = model.load_state_dict(state_dict, strict=False)
        fits = not unexpected and set(missing) <= set(recomputed)
    except RuntimeError:
        fits = False
    if not fits:
        expected = {k: v for k, v in own.items() if k not in recomputed}
        found = {k: v for k, v in state_dict.items() if k not in recomputed}
        problems = compare_state_dicts(expected, found)
        more = f' and {len(problems) - 4} more' if len(problems) > 4 else ''
        raise CheckpointError(
            f'{path} is not a checkpoint of this config: '
            f'{"; ".join(problems[:4])}{more}'
        )


def checkpoint_meta(
    checkpoint: Mapping[str, Any], path: str | Path
) -> dict[str, Any] | None:
    """Returns the training set's ``metainfo``, None where none is held."""
    meta = checkpoint.get('meta')
    found = meta.get('dataset_meta') if isinstance(meta, Mapping) else None
    if not isinstance(found, Mapping) or found.get('classes') is None:
        return None
    if not are_names(found['classes']):
        raise CheckpointError(
            f'{path}: its classes are not a list of distinct names'
        )
    return dict(found)


def are_names(classes: Any) -> bool:
    """Whether the classes are a list of distinct names."""
    return (
        isinstance(classes, (list, tuple))
        and all(isinstance(name, str) for name in classes)
        and len(set(classes)) == len(classes)
    )


def _candidates(work_dir: Path) -> list[Path]:
    """Lists the checkpoints to resume from, the newest first.

    The pointer comes first, then what has its name with a lower number.
    """
    pointer = work_dir / 'last_checkpoint'
    text = pointer.read_text(errors='replace') if pointer.is_file() else ''
    named = text.replace('\0', '').strip()
    last = Path(named)
    if named and not last.is_file():
        # The work directory may have been moved.
        last = work_dir / last.name
    numbered = {
        path: (match[1], int(match[2]))
        for path in (last.parent if named else work_dir).glob('*.pth')
        if (match := re.fullmatch(r'(?!best_)(.*?)(\d+)\.pth', path.name))
    }
    newest = max(numbered, key=lambda p: p.stat().st_mtime_ns, default=last)
    kind, number = numbered.get(last) or (
        numbered.get(newest, ('',))[0],
        math.inf,
    )
    earlier = [
        (name == kind, step, path)
        for path, (name, step) in numbered.items()
        # One of a run that was stopped inside an epoch follows the epochs'.
        if (name == kind and step < number)
        or (kind, name) == ('iter_', 'epoch_')
    ]
    paths = [path for *_, path in sorted(earlier, reverse=True)]
    return [last, *paths] if named else paths


def _refusal(path: str | Path, error: Exception) -> str:
    # What torch says besides is how to load the file all the same.
    reason = str(error).split('WeightsUnpickler error: ')[-1].strip()
    reason = reason.split(' Please use ')[0].split('\n')[0]
    foreign = re.search(r'GLOBAL (\S+) was not', reason)
    if not foreign:
        return f'{path} is no checkpoint ({reason})'
    return (
        f'{path} is refused: it holds pickled objects ({foreign[1]}) that '
        'weights do not need and that could run any code when loaded. If you '
        'trust its source, save its state_dict alone to a new file first'
    )
