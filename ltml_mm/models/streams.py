"""The two streams of a batch, and the average of the two branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample, label_to_onehot
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from ltml_mm.datasets.transforms import DEVICE_KEYS
from ltml_mm.models.device_augment import augment
from ltml_mm.models.fork.branches import BRANCHES

STREAM_HELP = """\
CollaborativeTwoBranchClassifier trains on two streams, but got a flat batch.
Add to the config:
  train_dataloader.sampler=dict(type='TwoStreamSampler', streams=dict(\
uniform=dict(type='UniformSampler'), \
rebalanced=dict(type='ClassAwareMultiLabelSampler')), \
epoch_length='rebalanced')
  train_dataloader.dataset=dict(type='TwoStreamDataset', dataset=<the dataset>)
  data_preprocessor=dict(type='TwoStreamDataPreprocessor', ...)"""


@ROOT_MODELS.register_module()
class TwoStreamDataPreprocessor(ClsDataPreprocessor):
    """A ``ClsDataPreprocessor`` that handles each stream by itself.

    A training batch holds a dict of streams under ``inputs`` and
    ``data_samples``. Each stream is normalised, padded and, where batch
    augmentations (Mixup, CutMix) are configured, mixed within itself, so
    that an image of one stream never enters the other. Flat batches, as
    test dataloaders make them, pass through the parent unchanged. What
    transforms with ``on_device=True`` drew is done first
    (:func:`~ltml_mm.models.device_augment.augment`).

    Args:
        **kwargs: The arguments of MMPretrain's ``ClsDataPreprocessor``.
    """

    def cast_data(self, data: Any) -> Any:
        """Moves data to the device, images while the host goes on."""
        if isinstance(data, Tensor):
            return data.to(self.device, non_blocking=True)
        return super().cast_data(data)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepares a batch.

        Args:
            data (dict): ``inputs``, images (N, C, H, W) or a list of them,
                and ``data_samples``, a list; or a dict of streams of each.
            training (bool): Whether to apply batch augmentations.

        Returns:
            dict: The same with float32 images (N, C, H, W).
        """
        if not isinstance(data['inputs'], dict):
            return self._prepare(data, training)
        streams: dict[str, Any] = {}
        for name in data['inputs']:
            part = {key: value[name] for key, value in data.items()}
            streams[name] = self._prepare(part, training, self.to_onehot)
        return {
            key: {name: stream[key] for name, stream in streams.items()}
            for key in ('inputs', 'data_samples')
        }

    def _prepare(self, data: dict, training: bool, whole: bool = True) -> dict:
        samples = data.get('data_samples') or ()
        if any(key in sample for sample in samples for key in DEVICE_KEYS):
            data = {**data, 'inputs': self._augmented(data['inputs'], samples)}
        if whole:
            return super().forward(data, training)
        # Labels stay on the host, where stream_targets gathers them.
        images = super().forward({'inputs': data['inputs']}, training)
        return {**images, 'data_samples': data.get('data_samples')}

    def _augmented(self, images: Any, samples: Any) -> Any:
        images = self.cast_data(images)
        if isinstance(images, Tensor):
            return augment(images, samples)
        # Of different sizes.
        pairs = zip(images, samples, strict=True)
        return [augment(image[None], [one])[0] for image, one in pairs]


def build_preprocessor(
    config: dict | None, batch_augments: dict | None, num_classes: int
) -> Any:
    """Builds the data preprocessor of a model of two streams.

    By default it is a ``TwoStreamDataPreprocessor``; MMPretrain's own, which
    takes flat batches alone, is an error. ``batch_augments`` and
    ``num_classes`` hold where the config has none.
    """
    preprocessor = MODELS.build(
        {
            'type': 'TwoStreamDataPreprocessor',
            'batch_augments': batch_augments,
            'num_classes': num_classes,
            **(config or {}),
        }
    )
    if type(preprocessor) is ClsDataPreprocessor:
        raise ValueError(
            'ClsDataPreprocessor cannot prepare two streams; write '
            "data_preprocessor=dict(type='TwoStreamDataPreprocessor', ...), "
            'which takes the same arguments, or leave its type out'
        )
    return preprocessor


def check_streams(inputs: Any) -> None:
    """Raises a ValueError unless a batch of images holds both streams."""
    if not isinstance(inputs, dict):
        raise ValueError(STREAM_HELP)
    if set(inputs) != set(BRANCHES):
        raise ValueError(
            f'the sampler must have the streams {list(BRANCHES)}, got '
            f'{list(inputs)}'
        )


@torch.compiler.disable
def stream_targets(
    data_samples: dict[str, list[DataSample]],
    num_classes: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Gathers the labels of a batch, float32 (N, K) in [0, 1] by stream.

    Of samples with ``gt_score`` (K,) or ``gt_label``, class indices. Kept out
    of compiled graphs: the number of labels differs from image to image, and
    each would be compiled anew.
    """
    samples = [sample for own in data_samples.values() for sample in own]
    if any('gt_score' in sample for sample in samples):
        scores = [
            sample.gt_score
            if 'gt_score' in sample
            else label_to_onehot(sample.gt_label, num_classes)
            for sample in samples
        ]
        targets = torch.stack(scores).float()
    else:
        # At once: MMPretrain's batch_label_to_onehot sums them one by one.
        labels = [sample.gt_label for sample in samples]
        sizes = torch.tensor([len(own) for own in labels])
        rows = torch.arange(len(labels)).repeat_interleave(sizes)
        each = one_hot(torch.cat(labels), num_classes).float()
        targets = each.new_zeros(len(labels), num_classes)
        targets.index_add_(0, rows.to(each.device, non_blocking=True), each)
    if device.type == 'cuda' and not targets.is_cuda:
        targets = targets.pin_memory()  # The host goes on meanwhile.
    targets = targets.to(device, non_blocking=True)
    parts = targets.split([len(own) for own in data_samples.values()])
    return dict(zip(data_samples, parts, strict=True))


def fuse_scores(logits: Sequence[Tensor], fuse: str) -> Tensor:
    """Averages the logits of branches or views and returns probabilities.

    ``fuse='logits'`` averages the logits, ``'probs'`` their sigmoids.
    """
    if fuse == 'logits':
        return fuse_logits(logits, fuse).sigmoid()
    return torch.stack([*logits]).sigmoid().mean(0)


def fuse_logits(logits: Sequence[Tensor], fuse: str) -> Tensor:
    """As :func:`fuse_scores`, the logits of the average."""
    stacked = torch.stack([*logits])
    if fuse == 'logits':
        return stacked.mean(0)
    # log(p / (1 - p)) of the mean p: finite where p rounds to 0 or 1.
    log_p = torch.logsumexp(logsigmoid(stacked), 0)
    return log_p - torch.logsumexp(logsigmoid(-stacked), 0)


@torch.no_grad()
def branch_agreement(uniform: Tensor, rebalanced: Tensor) -> dict[str, Tensor]:
    """Compares the logits of both branches for the same images.

    For the log alone: without gradient, whatever the consistency loss is
    and weighs, and under names without ``loss``, which MMEngine logs but
    does not add to the loss.

    Args:
        uniform (Tensor): Raw logits (N, K) of the uniform branch.
        rebalanced (Tensor): Those of the re-balanced branch.

    Returns:
        dict[str, Tensor]: Scalars, float32 under mixed precision too:

        - ``agreement/rms_difference``: the root of the mean squared
          difference over images and classes, in logits; 0 where the
          branches are equal.
        - ``agreement/correlation``: Pearson's correlation over the images,
          for each class, averaged over the classes; 1 where every class
          ranks and spaces the images alike, whatever the scale. A class
          with equal logits for all images counts as 0.
    """
    u, r = uniform.float(), rebalanced.float()
    # Within a class: over all logits together the classes' different levels,
    # which both branches share, would hide all else.
    du, dr = _centred(u), _centred(r)
    scale = du.square().sum(0).sqrt() * dr.square().sum(0).sqrt()
    smallest = torch.finfo(scale.dtype).tiny
    return {
        'agreement/rms_difference': (u - r).square().mean().sqrt(),
        'agreement/correlation': (
            (du * dr).sum(0) / scale.clamp_min(smallest)
        ).mean(),
    }


def _centred(logits: Tensor) -> Tensor:
    # From the first image on: equal logits give 0, not a rounding error.
    shifted = logits - logits[0]
    return shifted - shifted.mean(0)
