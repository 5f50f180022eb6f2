"""The two streams of a training batch."""

from __future__ import annotations

from typing import Any

import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample, label_to_onehot
from torch import Tensor

from ltml_mm.models.branches import BRANCHES

STREAM_HELP = """\
CollaborativeTwoBranchClassifier trains on two streams, but got a flat batch.
Add to the config:
  train_dataloader.sampler=dict(type='TwoStreamSampler', streams=dict(\
uniform=dict(type='UniformSampler'), \
rebalanced=dict(type='ClassAwareMultiLabelSampler')), \
epoch_length='rebalanced')
  train_dataloader.dataset=dict(type='TwoStreamDataset', dataset=<the dataset>)
  data_preprocessor=dict(type='TwoStreamDataPreprocessor', ...)"""


def build_preprocessor(
    config: dict | None, batch_augments: dict | None, num_classes: int
) -> Any:
    """Builds the data preprocessor of a model of two streams.

    Args:
        config: Its config, by default of type ``TwoStreamDataPreprocessor``.
        batch_augments: Where the config has none.
        num_classes: Likewise.

    Returns:
        nn.Module: The data preprocessor.

    Raises:
        ValueError: It is MMPretrain's own, which takes flat batches alone.
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
    """Checks that a training batch holds both streams.

    Args:
        inputs: The images, by stream.

    Raises:
        ValueError: It is a flat batch, or has other streams; says what to
            write in the config.
    """
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
    """Gathers the labels of a batch.

    Kept out of compiled graphs: the number of labels differs from image to
    image, and each would be compiled anew.

    Args:
        data_samples: Samples by stream, with ``gt_score`` (K,) or
            ``gt_label``, class indices.
        num_classes: K.
        device: Where the result shall be.

    Returns:
        dict[str, Tensor]: float32 of shape (N, K), in [0, 1], by stream.
    """
    targets = {}
    for name, samples in data_samples.items():
        rows = [
            sample.gt_score
            if 'gt_score' in sample
            else label_to_onehot(sample.gt_label, num_classes)
            for sample in samples
        ]
        targets[name] = torch.stack(rows).to(device, torch.float32)
    return targets
