"""MMPretrain's own training, beside which benchmarks set that of LTML."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

#: Where MMPretrain's wheels keep its configs and tools.
MIM = Path(str(find_spec('mmpretrain').origin)).parent / '.mim'  # type: ignore[union-attr]
#: By the name of a training, the tool that makes it.
TOOLS = {
    'stock': MIM / 'tools/train.py',
    'own': Path(__file__).resolve().parents[1] / 'train.py',
}
CONFIG = """
_base_ = '{mim}/configs/_base_/default_runtime.py'
custom_imports = dict(imports=['{probe}'])
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth={depth}, stem_channels={channels},
                  base_channels={channels}),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='MultiLabelLinearClsHead', num_classes={classes},
              in_channels={width}))
data_preprocessor = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
    to_rgb=True, to_onehot=True, num_classes={classes})
train_dataloader = dict(
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='MultiLabelDataset', ann_file='{ann_file}',
                 data_root='{folder}', pipeline=[
                     dict(type='LoadImageFromFile'), {transforms}
                     dict(type='PackInputs')]))
"""


def without_multimodal() -> str:
    """Returns what a probe starts with, so that MMPretrain's training runs.

    Beside transformers 5 it does not import; without its multimodal models,
    as ``import ltml_mm`` leaves them out there, it does.
    """
    import ltml_mm  # noqa: F401

    # isort: split
    from mmpretrain.utils import dependency

    if dependency.WITH_MULTIMODAL:
        return ''
    return (
        'from mmpretrain.utils import dependency\n'
        'dependency.WITH_MULTIMODAL = False\n'
    )


def stock_config(
    folder: Path,
    probe: str,
    depth: int,
    channels: int,
    classes: int,
    ann_file: str,
    transforms: str,
) -> str:
    """Returns the config of a stock classifier; a schedule is to be added.

    Args:
        folder: That of the images and of ``ann_file``.
        probe: A module that the training imports.
        depth: That of the ResNet.
        channels: Those at its stem.
        classes: How many.
        ann_file: MMPretrain's multi-label JSON.
        transforms: What stands between loading and packing, each with a
            comma behind it.
    """
    width = channels * (8 if depth < 50 else 32)
    return CONFIG.format(
        mim=MIM,
        probe=probe,
        depth=depth,
        channels=channels,
        classes=classes,
        width=width,
        ann_file=ann_file,
        folder=folder,
        transforms=transforms,
    )
