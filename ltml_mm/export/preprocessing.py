"""The test pipeline as a network: pixels of any size in, its input out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: Steps that do not change the pixels.
NEUTRAL = ('PackInputs', 'PackMultiTaskInputs', 'Collect')
WITHOUT = 'export the network alone with --without-preprocessing'
#: OpenCV's fixed-point weights have so many steps.
STEPS = 2048


class Resize(nn.Module):
    """OpenCV's bilinear resizing of uint8 images, bit for bit.

    OpenCV weighs the two nearest pixels of each axis in fixed point with 11
    bits, columns first, and rounds once at the end. A resizing in floating
    point differs in single levels, and the scores in their third digit.

    Args:
        height: Of the output, in pixels.
        width: Of the output; None keeps the ratio, and ``height`` becomes
            the length of the shorter edge.
    """

    def __init__(self, height: int, width: int | None) -> None:
        super().__init__()
        self.height = height
        self.width = height if width is None else width
        self.keep_ratio = width is None

    def forward(self, images: Tensor) -> Tensor:
        """Resizes images, uint8 (N, H, W, 3), to int32 (N, h, w, 3)."""
        old_height, old_width = images.shape[1], images.shape[2]
        height, width = self.height, self.width
        if self.keep_ratio:
            # The shorter edge gets the scale, the other is rounded down.
            shorter = min(old_height, old_width)
            height = height * old_height // shorter
            width = width * old_width // shorter
        left, right, low, high = _columns(old_width, width, images.device)
        columns = (
            images.index_select(2, left).int() * low[:, None]
            + images.index_select(2, right).int() * high[:, None]
        )
        above, below, low, high = _rows(old_height, height, images.device)
        # 4 of the 22 bits go first, so that all fits into 32.
        upper = columns.index_select(1, above).div(16, rounding_mode='floor')
        lower = columns.index_select(1, below).div(16, rounding_mode='floor')
        total = (upper * low[:, None, None]).div(65536, rounding_mode='floor')
        total = total + (lower * high[:, None, None]).div(
            65536, rounding_mode='floor'
        )
        return (total + 2).div(4, rounding_mode='floor').clamp(0, 255)


def _places(old: int, new: int, device: torch.device) -> Tensor:
    """Where the centres of new pixels lie among the old, float32 (new,)."""
    size = torch.full([1], old, dtype=torch.float64, device=device)
    count = torch.full([1], new, dtype=torch.float64, device=device)
    centres = torch.arange(new, device=device).double() + 0.5
    return (centres * (1.0 / (count / size)) - 0.5).float()


def _weights(fraction: Tensor) -> tuple[Tensor, Tensor]:
    """Fixed-point weights of the first and of the second neighbour."""
    return (
        ((1.0 - fraction) * 2048.0).round().int(),
        (fraction * 2048.0).round().int(),
    )


def _columns(
    old: int, new: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Neighbours of each new column, and their weights."""
    places = _places(old, new, device)
    first = places.floor()
    # Beyond the outermost pixel's centre that pixel counts alone.
    outside = (first < 0) | (first >= old - 1)
    fraction = torch.where(outside, torch.zeros_like(first), places - first)
    low, high = _weights(fraction)
    index = first.long()
    return index.clamp(0, old - 1), (index + 1).clamp(0, old - 1), low, high


def _rows(
    old: int, new: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Neighbours of each new row; outside, the outermost counts twice."""
    places = _places(old, new, device)
    first = places.floor()
    low, high = _weights(places - first)
    index = first.long()
    return index.clamp(0, old - 1), (index + 1).clamp(0, old - 1), low, high


class CenterCrop(nn.Module):
    """Cuts out the middle of images, int32 (N, H, W, 3)."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height = height
        self.width = width

    def forward(self, images: Tensor) -> Tensor:
        """Returns int32 (N, h, w, 3)."""
        # Half of an odd rest is rounded to the even number, as in Python.
        top = _half(images.shape[1] - self.height)
        left = _half(images.shape[2] - self.width)
        rows = torch.arange(self.height, device=images.device) + top
        columns = torch.arange(self.width, device=images.device) + left
        return images.index_select(1, rows).index_select(2, columns)


def _half(rest: int) -> int:
    return (rest + (rest // 2) % 2) // 2


class Normalize(nn.Module):
    """Makes the network's input, float32 (N, 3, h, w), of RGB pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessor: Any) -> None:
        super().__init__()
        self.flip = not preprocessor.to_rgb  # then the network takes BGR
        known = getattr(preprocessor, '_enable_normalize', False)
        mean = preprocessor.mean if known else torch.zeros(3, 1, 1)
        std = preprocessor.std if known else torch.ones(3, 1, 1)
        self.register_buffer('mean', mean.detach().cpu().clone())
        self.register_buffer('std', std.detach().cpu().clone())

    def forward(self, images: Tensor) -> Tensor:
        """Normalises int32 (N, h, w, 3)."""
        inputs = images.permute(0, 3, 1, 2).float()
        if self.flip:
            inputs = inputs.flip(1)
        return (inputs - self.mean) / self.std


def build_preprocessing(
    pipeline: Sequence[Mapping[str, Any]], preprocessor: Any
) -> nn.Sequential:
    """Turns a test pipeline and a data preprocessor into a network.

    Args:
        pipeline: Configs of transforms: loading, ``Resize``,
            ``ResizeEdge`` with ``CenterCrop``, packing. Without resizing the
            network sees images as they are.
        preprocessor: MMPretrain's ``ClsDataPreprocessor``, or ours.

    Returns:
        nn.Sequential: Of RGB pixels, uint8 (N, H, W, 3), it makes the
        network's input, float32 (N, 3, h, w).

    Raises:
        ValueError: A step has no counterpart here; names it.
    """
    if preprocessor.pad_size_divisor > 1:
        raise ValueError(f'data_preprocessor.pad_size_divisor: {WITHOUT}')
    steps = [step for given in pipeline for step in _steps(given)]
    if any(isinstance(step, CenterCrop) for step in steps[:1]):
        raise ValueError(f'CenterCrop before any resizing: {WITHOUT}')
    return nn.Sequential(*steps, Normalize(preprocessor))


def _steps(given: Mapping[str, Any]) -> list[nn.Module]:
    options = dict(given)
    kind = options.pop('type')
    name = getattr(kind, '__name__', str(kind)).split('.')[-1]
    if name in NEUTRAL:
        return []
    fits = options.pop('backend', 'cv2') == 'cv2'
    fits &= options.pop('interpolation', 'bilinear') == 'bilinear'
    if name.startswith('Load') and options.get('color_type', 'color') in (
        'color',
        'unchanged',
    ):
        return []
    if name == 'Resize' and not options.pop('keep_ratio', False) and fits:
        options.pop('clip_object_border', None)
        scale = options.pop('scale', None)
        if scale is not None and not options:
            width, height = (scale, scale) if type(scale) is int else scale
            return [Resize(height, width)]
    if name == 'ResizeEdge' and fits:
        scale, edge = options.pop('scale'), options.pop('edge', 'short')
        if edge == 'short' and not options:
            return [Resize(scale, None)]
    if name == 'CenterCrop' and set(options) == {'crop_size'}:
        size = options['crop_size']
        width, height = (size, size) if type(size) is int else size
        return [CenterCrop(height, width)]
    raise ValueError(f'{dict(given)} cannot be part of the file: {WITHOUT}')
