"""Remembers what a step of the optimizer was computed from."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ltml_mm.engine.hooks.resume_state import capture_random_states
from ltml_mm.files import write_bytes

#: Marks a sample among the plain values of a dump.
SAMPLE = 'data_sample'


class StepRecord:
    """The batches, loss terms and random states of one optimizer step.

    Nothing is copied to the CPU and nothing is waited for: batches are held
    by reference until the step is done, loss terms stay on their device.
    Buffers (the running statistics of BatchNorm) are copied on theirs before
    the first forward pass, which changes them.
    """

    def __init__(self) -> None:
        self._copies: list[Tensor] = []
        self.clear()

    def clear(self) -> None:
        """Forgets the step."""
        self.module: nn.Module | None = None
        self.batches: list[dict[str, Any]] = []
        self.losses: list[Tensor] = []
        self._random: dict[str, Any] | None = None

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Records the forward passes of a model.

        Args:
            model: The model, or what wraps it for several processes.

        Yields:
            None: Forward passes within are recorded.
        """
        module: Any = model.module if is_model_wrapper(model) else model
        if self.module is None:
            self._copy_buffers(module)
        # For the time of the step only: a hook that stays would be copied
        # and saved with the model.
        handles = [
            module.register_forward_pre_hook(self._before),
            module.register_forward_hook(self._after, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def restore_buffers(self) -> None:
        """Gives the buffers the values they had before the step."""
        if self.module is not None:
            _copy(list(self.module.buffers()), self._copies)

    def terms(self) -> dict[str, float]:
        """Returns the loss terms that are not finite, waits for the GPU."""
        terms: dict[str, float] = {}
        for batch in self.batches:
            for name, value in plain_terms(batch['terms']).items():
                if not torch.isfinite(torch.tensor(value)):
                    terms.setdefault(name, value)
        return terms

    def gradients(self) -> list[str]:
        """Returns the parameters whose gradients are not finite."""
        return non_finite_gradients(self.module) if self.module else []

    def images(self) -> dict[str, list[str]]:
        """Returns the image paths by stream, '' where there are no streams.

        Those of the batches whose loss is not finite, of all batches where
        every loss is finite.
        """
        images: dict[str, list[str]] = {}
        for batch in self._suspects():
            for stream, path in _image_paths((batch['args'], batch['kwargs'])):
                images.setdefault(stream, []).append(path)
        return images

    def save(self, path: Path, step: int) -> None:
        """Writes what is needed to compute the step again.

        Args:
            path: The file, written whole or not at all; it loads with
                ``weights_only=True``.
            step: Number of the step, from 1.

        Raises:
            OSError: The file cannot be written.
        """
        if self.module is None:
            raise OSError('the model was trained without optim_context()')
        state = self.module.state_dict()
        names = [name for name, _ in self.module.named_buffers()]
        before = zip(names, self._copies, strict=True)
        state.update({n: copy for n, copy in before if n in state})
        content = {
            'step': step,
            'state_dict': plain(dict(state)),
            'batches': [plain(batch) for batch in self.batches],
            'images': self.images(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_bytes(path, buffer.getvalue())

    def _suspects(self) -> list[dict[str, Any]]:
        if len(self.losses) != len(self.batches):
            return self.batches
        bad = [
            batch
            for batch, loss in zip(self.batches, self.losses, strict=True)
            if not loss.isfinite().all()
        ]
        return bad or self.batches

    def _copy_buffers(self, module: nn.Module) -> None:
        self.module = module
        buffers = list(module.buffers())
        fits = len(self._copies) == len(buffers) and all(
            (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
            for a, b in zip(self._copies, buffers, strict=True)
        )
        if not fits:
            self._copies = [buffer.detach().clone() for buffer in buffers]
        else:
            _copy(self._copies, buffers)

    def _before(self, module: nn.Module, args: Any) -> None:
        self._random = capture_random_states()

    def _after(
        self, module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        if not isinstance(output, dict):
            return
        device = next((p.device.type for p in module.parameters()), 'cpu')
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else None
        self.batches.append(
            {
                'args': args,
                'kwargs': kwargs,
                'random': self._random,
                'autocast': str(dtype).split('.')[-1] if dtype else None,
                'terms': _detach(output),
            }
        )


def plain(value: Any) -> Any:
    """Turns a batch into tensors on the CPU and plain values."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, BaseDataElement):
        fields = {**dict(value.metainfo_items()), **dict(value.items())}
        return {SAMPLE: plain(fields)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    if hasattr(value, 'tolist'):  # NumPy's values
        return plain(value.tolist())
    return repr(value)


def plain_terms(terms: dict[str, Any]) -> dict[str, float]:
    """Returns loss terms as numbers, as MMEngine sums them up."""
    numbers = {}
    for name, value in terms.items():
        if 'loss' not in name:  # MMEngine logs it and leaves it out
            continue
        parts = value if isinstance(value, list) else [value]
        if all(isinstance(part, Tensor) for part in parts):
            numbers[name] = float(
                sum(part.detach().float().mean() for part in parts)
            )
    return numbers


def non_finite_gradients(module: nn.Module) -> list[str]:
    """Returns the names of the parameters with such gradients."""
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]


@torch.no_grad()
def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    # One kernel for each type instead of one for each buffer.
    for dtype in {target.dtype for target in targets}:
        torch._foreach_copy_(
            [target for target in targets if target.dtype == dtype],
            [source for source in sources if source.dtype == dtype],
        )


def _detach(terms: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [part.detach() for part in value]
        if isinstance(value, list)
        else value.detach()
        for name, value in terms.items()
        if isinstance(value, list | Tensor)
    }


def _image_paths(value: Any, stream: str = '') -> Iterator[tuple[str, str]]:
    if isinstance(value, BaseDataElement):
        if 'img_path' in value:
            yield stream, str(value.img_path)
    elif isinstance(value, dict):
        for key, item in value.items():
            # {'data_samples': {'uniform': [...]}}: the innermost name.
            name = stream if key in ('data_samples', 'inputs') else str(key)
            yield from _image_paths(item, name)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _image_paths(item, stream)
