"""Where a network looks: Grad-CAM of one class in each branch."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

#: The longest side of a map; the features are hardly ever finer.
MAP_SIDE = 14
#: Tokens ahead of the patches that are looked for: class and registers.
MAX_PREFIX = 9
#: How far the sides of features may be from those of the image, as logarithm.
ASPECT_SLACK = 0.35
#: What hands a feature through, and what weighs places against each other.
PASSED_OVER = (nn.Dropout, nn.Identity, nn.Softmax)
BATCH = 16


def has_grad_cam() -> bool:
    """Tells whether the package ``grad-cam`` is installed."""
    return importlib.util.find_spec('pytorch_grad_cam') is not None


class BranchLogits(nn.Module):
    """The logits (N, K) of one branch, or of a network without branches."""

    def __init__(self, network: Any, branch: str = '') -> None:
        super().__init__()
        self.network = network
        self.branch = branch

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes images (N, C, H, W), normalised."""
        if self.branch:
            return self.network.branch_logits(inputs)[self.branch]
        logits = self.network(inputs, mode='tensor')
        return logits[-1] if isinstance(logits, (list, tuple)) else logits


class Attention:
    """Grad-CAM (Selvaraju et al., ICCV 2017) of a branch.

    The layer is found by running the network: the last module that keeps
    the shape of its input, whose output has places as the image does, and
    from more than one of which the gradient reaches the logits. Of a vision
    transformer with a class token that is the norm ahead of the last
    attention, behind which the patches are not read any more.

    Args:
        network: The network, in evaluation mode. Its parameters will not
            require gradients any more.
        images: An image at least, as the network takes it, (N, C, H, W).
        branch: The branch to look at, ``''`` where there are none.

    Raises:
        ValueError: The network has no such layer.

    Attributes:
        layer: The name of the module.
    """

    def __init__(self, network: Any, images: Tensor, branch: str = '') -> None:
        network.requires_grad_(False)
        self.logits = BranchLogits(network, branch).eval()
        self.layer, self._module = _find_layer(self.logits, images[:1])

    def __call__(self, images: Tensor, classes: list[int]) -> list[np.ndarray]:
        """Computes the map of one class in each image (N, C, H, W).

        Returns:
            list[np.ndarray]: Maps from 0 to 1, float32, with the sides of
            the images reduced to :data:`MAP_SIDE`.
        """
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        height, width = images.shape[-2:]
        scale = min(1, MAP_SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))

        def places(output: Tensor) -> Tensor:
            found = to_places(output, height / width)
            return output if found is None else found

        # Ahead of the hooks of GradCAM: gradients end at the layer.
        handle = self._module.register_forward_hook(_cut)
        maps = []
        try:
            with (
                torch.enable_grad(),
                GradCAM(self.logits, [self._module], places) as cam,
            ):
                for start in range(0, len(images), BATCH):
                    part = slice(start, start + BATCH)
                    targets = [
                        ClassifierOutputTarget(k) for k in classes[part]
                    ]
                    maps += list(cam(images[part], targets))
        finally:
            handle.remove()
        maps = [
            cv2.resize(m, size, interpolation=cv2.INTER_AREA) for m in maps
        ]
        return [m / max(m.max(), 1e-7) for m in maps]


def to_places(output: Tensor, aspect: float) -> Tensor | None:
    """Gives features the shape (N, C, h, w), None where they have no places.

    Args:
        output: (N, C, h, w), (N, h, w, C), or tokens (N, L, C), maybe with
            a few ahead of the patches.
        aspect: Height over width of the image.
    """

    def fits(height: int, width: int) -> bool:
        return height * width > 1 and (
            abs(math.log(height / width / aspect)) < ASPECT_SLACK
        )

    if output.dim() == 4:
        if fits(*output.shape[2:]):
            return output
        if fits(*output.shape[1:3]):
            return output.permute(0, 3, 1, 2)
    elif output.dim() == 3:
        length = output.shape[1]
        for prefix in range(min(MAX_PREFIX, length)):
            height = round(math.sqrt((length - prefix) * aspect))
            width, rest = divmod(length - prefix, max(height, 1))
            if not rest and height and width and fits(height, width):
                patches = output[:, prefix:].transpose(1, 2)
                return patches.reshape(len(output), -1, height, width)
    return None


def _cut(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    # A copy, because the next module may change it in place.
    return output.detach().requires_grad_().clone()


def _find_layer(logits: BranchLogits, image: Tensor) -> tuple[str, nn.Module]:
    """Finds the layer that :class:`Attention` describes."""
    runs: dict[nn.Module, list[tuple[Tensor, int]]] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        shape = getattr(inputs[0] if inputs else None, 'shape', None)
        is_tensor = isinstance(output, Tensor) and output.requires_grad
        if is_tensor and output.shape == shape:
            output.retain_grad()
            # Asked for again last, which keeps the order of completion.
            runs[module] = [*runs.pop(module, []), (output, output._version)]

    names = {module: name for name, module in logits.network.named_modules()}
    handles = [
        module.register_forward_hook(note)
        for module in names
        if not isinstance(module, PASSED_OVER)
    ]
    try:
        with torch.enable_grad():
            logits(image.clone().requires_grad_())[0].square().sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    aspect = image.shape[-2] / image.shape[-1]
    for module, outputs in reversed(runs.items()):
        (output, version), *more = outputs
        # Run twice it has two features; changed later it is not this one.
        if more or output._version != version or len(output) != len(image):
            continue
        grad = output.grad
        places = None if grad is None else to_places(grad, aspect)
        if places is not None and int(places.abs().sum(1).count_nonzero()) > 1:
            return names[module], module
    raise ValueError('the network has no layer with places to look at')
