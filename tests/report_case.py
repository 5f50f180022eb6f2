"""Test sets and networks to look at: drawn from noise, or a tiny one."""

from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from tiny_training import STOCK, extend, write_small

from ltml_mm.apis.config import load_config
from ltml_mm.apis.model import Network, build_model
from ltml_mm.class_statistics import ClassStatistics
from ltml_mm.decisions.scores import Scores
from ltml_mm.inspection.evidence import Evidence
from ltml_mm.inspection.neighbours import Features

HOSTILE = '<script>alert("x")</script>'
NAMES = [
    HOSTILE,
    'a name so long that no column of a table could ever hold it in one line',
    '超長い日本語のクラス名で改行する場所がどこにもないものを表示する',
    'x' * 60,
    'quote\'s & "signs" {{ 7 * 7 }} {% raw %}',
]
LARGER = """
test = [
    dict(type='LoadCheckedImage'),
    dict(type='Resize', scale=(96, 64), keep_ratio=False),
    dict(type='PackInputs')]
test_dataloader = dict(dataset=dict(pipeline=test))
"""
LABELS = [[0], [0, 1], [2, 3], [], [1, 4], [0, 2], [3], [1], [0, 4], [2]]


def save_network(config, seed=0):
    """Writes a checkpoint of random weights; returns its path."""
    cfg = load_config(config)
    torch.manual_seed(seed)
    model = build_model(cfg)
    for name, value in model.state_dict().items():
        if name.endswith('fc.weight'):
            value.mul_(20)  # scores spread over 0 to 1, not all near 0.5
    meta = {'dataset_meta': dict(cfg.test_dataloader.dataset.metainfo)}
    path = Path(config).parent / f'{Path(config).stem}_{seed}.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)
    return path


def write_networks(folder):
    """Writes pictures and two configs; returns their paths."""
    plain = write_small(folder, LABELS, NAMES)
    two_branch = extend(plain, LARGER, 'two_branch.py')
    stock = STOCK.replace('num_classes=3', 'num_classes=5')
    return two_branch, extend(two_branch, stock, 'stock.py')


class NoisePictures:
    """Pictures of a size that photographs have in a test, 224 x 168."""

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
        smooth = np.asarray(coarse.resize((224, 168), Image.BICUBIC))
        noisy = smooth + rng.normal(0, 12, smooth.shape)
        pixels = noisy.clip(0, 255).astype(np.uint8).transpose(2, 0, 1)
        return {'inputs': torch.from_numpy(pixels.copy()), 'data_samples': {}}


def noise_subject(num_classes, num_images=400):
    """What a two-branch network might say; class 4 makes class 5 fire."""
    rng = np.random.default_rng(0)
    words = ['red', 'blue', 'wooden', 'electric']
    words += ['日本語の標識', '自転車', 'кошка']
    names = [
        f'{words[k % 7]} {words[k * 7 % 5]} {k}' for k in range(num_classes)
    ]
    names[: len(NAMES)] = NAMES
    counts = np.maximum(3, 800 / (1 + np.arange(num_classes)) ** 0.9)
    statistics = ClassStatistics(tuple(counts.astype(int).tolist()), 2000)
    info = [
        {'name': name, 'group': group, 'train_images': count}
        for name, group, count in zip(
            names, statistics.group_of(), statistics.counts, strict=True
        )
    ]
    shares = np.clip(counts / 1300, 0.02, 0.4)
    targets = rng.random((num_images, num_classes)) < shares
    logits = rng.normal(-2, 1, targets.shape) + 3 * targets
    logits[:, 5] += 2.5 * targets[:, 4]
    scores = {
        name: (1 / (1 + np.exp(-logits - rng.normal(0, spread, logits.shape))))
        for name, spread in (('', 0), ('uniform', 0.4), ('rebalanced', 0.4))
    }
    scores = {name: s.astype(np.float32) for name, s in scores.items()}
    paths = [f'/secret/folder/val/{i:06d}.jpg' for i in range(num_images)]
    found = Scores(scores.pop(''), targets, paths, scores)
    path = Path('/secret/work/epoch_8.pth')
    network = Network(Config({}), None, None, info, '', path)
    thresholds = np.full(num_classes, 0.5)
    features = Features(num_images)
    return Evidence(network, NoisePictures(), found, features, thresholds)
