"""What steps compute on a GPU, handed to the host without a wait for it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce, get_dist_info
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

#: Seconds that a value waits at most: the status of a run shows the loss.
MAX_AGE = 1.0


@HOOKS.register_module()
class LateRuntimeInfoHook(RuntimeInfoHook):
    """A ``RuntimeInfoHook`` that does not wait for a GPU in each step.

    MMEngine's reads the terms of the loss after each step, so the GPU is idle
    until the host has prepared the next one. Here they are read when a log or
    a checkpoint asks; once a second, all but the newest. Values are the same.
    """

    def after_train_iter(
        self, runner: Runner, *args: Any, outputs: Any = None, **kw: Any
    ) -> None:
        """Notes the outputs of the model."""
        for key, value in (outputs or {}).items():
            log_late(runner.message_hub, f'train/{key}', value)


def log_late(hub: MessageHub, key: str, value: Any) -> None:
    """As ``hub.update_scalar``, but a tensor of one value stays unread."""
    history = hub.log_scalars.get(key)
    if not isinstance(history, LateHistory):
        hub.update_scalar(key, value)  # Checks it, and waits.
        stock = hub.log_scalars[key]
        history = LateHistory(*stock.data, stock.max_length)
        hub.log_scalars[key] = history
    elif isinstance(value, Tensor):
        # Not itself, in whose place a CUDA graph writes the next one.
        history.late.append(value.detach().clone())
    else:
        hub.update_scalar(key, value)
    if time.monotonic() - history.read_at > MAX_AGE:
        history.read(but=1)  # That of this step, which a GPU may be at.


class LateHistory(HistoryBuffer):
    """A ``HistoryBuffer`` that reads values when it is asked for any.

    In a checkpoint it is a ``HistoryBuffer``.
    """

    def __init__(self, *args: Any) -> None:
        #: Scalars on their device, what has been read, and when.
        self.late: list[Tensor] = []
        self.known: np.ndarray = np.array([])
        self.read_at = time.monotonic()
        super().__init__(*args)

    def read(self, but: int = 0) -> None:
        """Reads the values, but for so many of the newest."""
        late, self.late = self.late, []
        self.read_at = time.monotonic()
        for value in late[: len(late) - but]:
            self.update(value.item())
        self.late = late[len(late) - but :]

    @property
    def _log_history(self) -> np.ndarray:
        self.read()
        return self.known

    @_log_history.setter
    def _log_history(self, values: np.ndarray) -> None:
        self.known = values

    def __reduce__(self) -> tuple:
        return HistoryBuffer, (*self.data, self.max_length)


class StepCheck:
    """Checks losses and gradients ahead of a step of the optimizer.

    Its values are on their way to the host, which may read them while the
    GPU is at the next step. All processes must make it.

    Args:
        step: The number of the step.
        module: The network, for the names of the weights.
        weights: Those with a gradient.
        batches: The loss of each batch, and inputs and output of each pass.
    """

    @torch.no_grad()
    def __init__(
        self,
        step: int,
        module: nn.Module | None,
        weights: Sequence[Tensor],
        batches: Sequence[tuple[Tensor, Sequence[tuple[Any, Any]]]],
    ) -> None:
        self.step, self.weights, self._module = step, weights, module
        grads: Any = [w.grad for w in weights] or [torch.zeros(1)]
        # As torch.nn.utils.get_total_norm, which does not tell those of each.
        each = torch._foreach_norm(grads)
        norms = torch.stack([norm.to(each[0].device) for norm in each])
        #: Of all gradients together.
        self.norm = torch.linalg.vector_norm(norms)
        losses = [loss.to(norms).mean() for loss, _ in batches] or [self.norm]
        fine = [torch.stack(x).isfinite().all() for x in (losses, [self.norm])]
        #: 1 where the loss, and where the norm of any process is not finite.
        self.flags = torch.stack(fine).logical_not().to(norms.dtype)
        all_reduce(self.flags, 'max')
        parts = [*self.flags, self.norm]
        self._batches: list[tuple[list[str], list[Any]]] = []
        for loss, passes in batches:
            terms = [term for _, output in passes for term in _terms(output)]
            numbers = [loss.mean(), *(value for _, value in terms)]
            parts += [number.to(norms) for number in numbers]
            # Outputs go: a CUDA graph writes its next ones in their place.
            names, inputs = [n for n, _ in terms], [x for x, _ in passes]
            self._batches.append((names, inputs))
        values = torch.cat([torch.stack(parts), norms])
        cuda = values.is_cuda
        self._values = values.to('cpu', non_blocking=cuda)
        stream = torch.cuda.current_stream(values.device) if cuda else None
        self._copied = stream and stream.record_event()

    def read(self) -> list[float]:
        """Returns both flags, the norm, and what :meth:`describe` tells."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()

    def describe(self) -> str:
        """Describes what is not finite, and of which images.

        All processes must call it.
        """
        rank, world_size = get_dist_info()
        values = iter(self.read()[2:])
        norm = next(values)
        batches = []
        for names, inputs in self._batches:
            loss, *terms = islice(values, 1 + len(names))
            pairs = zip(names, terms, strict=True)
            bad = {n: v for n, v in reversed([*pairs]) if not math.isfinite(v)}
            batches.append((math.isfinite(loss), bad, inputs))
        faulty = [batch for batch in batches if not batch[0]]
        text = f'on process {rank} ' if world_size > 1 else ''
        if faulty:
            found = dict(x for _, bad, _ in faulty for x in bad.items())
            named = ', '.join(f'{name} = {v}' for name, v in found.items())
            text += f'the loss is not finite ({named or "total"})'
        else:
            text += 'the loss is finite, but the norm of the gradients is '
            text += f'{norm}{self._bad_weights([*values])}'
        passes = [x for _, _, inputs in faulty or batches for x in inputs]
        paths = [path for inputs in passes for path in _paths(inputs)]
        images = paths or ['  unknown, the samples carry no img_path']
        lines = [f'{text}. Images of the batch:', *images]
        own = bool(faulty), '\n'.join(lines)
        each = all_gather_object(own) if world_size > 1 else [own]
        # Gradients are the same everywhere: where every loss is finite, any
        # process may have caused them.
        told = [text for bad, text in each if bad]
        return '\n'.join(told or [text for _, text in each])

    def _bad_weights(self, norms: Sequence[float]) -> str:
        pairs = zip(self.weights, norms, strict=False)  # One without weights.
        bad = {id(weight) for weight, norm in pairs if not math.isfinite(norm)}
        named = self._module.named_parameters() if self._module else ()
        names = [name for name, weight in named if id(weight) in bad]
        more = f' and {len(names) - 3} more' if len(names) > 3 else ''
        return f' (parameters {", ".join(names[:3])}{more})' if names else ''


def _terms(output: Any) -> Iterator[tuple[str, Tensor]]:
    for name, value in output.items() if isinstance(output, dict) else ():
        parts = value if isinstance(value, list) else [value]
        # MMEngine sums those of this name.
        if 'loss' in name and all(isinstance(p, Tensor) for p in parts):
            for part in parts:
                yield name, part.float().mean()


def _paths(value: Any, stream: str = '') -> Iterator[str]:
    """Yields streams and paths of the samples within a model's inputs."""
    if isinstance(value, BaseDataElement):
        if 'img_path' in value:
            yield f'  {stream} {value.img_path}'
    elif isinstance(value, dict):
        for key, item in value.items():
            # {'data_samples': {'uniform': [...]}}: the innermost name.
            name = stream if key in ('data_samples', 'inputs') else str(key)
            yield from _paths(item, name)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item, stream)
