"""A data set and a config so small that a run takes a second."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

REPO = Path(__file__).parents[2]
TOOLS = REPO / 'tools'
CLASSES = ['sky', 'tree', 'cat', 'owl']
NUM_TRAIN, NUM_TEST = 40, 13  # an odd test set: two processes pad it
PAIRS, EPOCHS, BATCH = 16, 2, 8

CONFIG = """
_base_ = '{repo}/configs/ltml_custom.py'
custom_imports = dict(imports=['ltml_mm', 'rank_probe'])
custom_hooks = [dict(type='RankProbe', out_dir='{folder}')]
data_root = '{folder}'
model = dict(
    backbone=dict(
        depth=18, stem_channels=8, base_channels=8, norm_eval=True,
        init_cfg=None))
train = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomRatioCrop', min_ratio=0.8),
    dict(type='Resize', scale=(32, 32), keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs')]
test = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(32, 32), keep_ratio=False),
    dict(type='PackInputs')]
train_dataloader = dict(
    batch_size={batch}, num_workers=0, persistent_workers=False,
    sampler=dict(epoch_length={pairs}, seed=3),
    dataset=dict(dataset=dict(pipeline=train)))
# One by one: another batch may round an image's scores another way.
val_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False,
    dataset=dict(pipeline=test))
test_dataloader = val_dataloader
# Steps large enough that a difference between runs would show.
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = []
train_cfg = dict(max_epochs={epochs})
"""


def write_run(folder: Path) -> Path:
    """Writes pictures, annotations and the config; returns the config."""
    rng = np.random.default_rng(0)
    for split, size in (('train', NUM_TRAIN), ('test', NUM_TEST)):
        labels = rng.random((size, 4)) < [0.8, 0.4, 0.2, 0.1]
        labels[:4] = np.eye(4)  # each class has a positive and a negative
        entries = []
        for index, row in enumerate(labels):
            name = f'{split}_{index}.png'
            picture = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(picture).save(folder / name)
            positives = np.flatnonzero(row).tolist()
            entries.append({'img_path': name, 'gt_label': positives})
        content = {'metainfo': {'classes': CLASSES}, 'data_list': entries}
        (folder / f'{split}.json').write_text(json.dumps(content))
    config = folder / 'tiny.py'
    values = dict(batch=BATCH, pairs=PAIRS, epochs=EPOCHS)
    config.write_text(CONFIG.format(repo=REPO, folder=folder, **values))
    return config


def free_port() -> str:
    """Returns a port that is free at this moment."""
    with socket.socket() as server:
        server.bind(('', 0))
        return str(server.getsockname()[1])


def environment(**variables: object) -> dict[str, str]:
    """The environment of a launch: this Python first, and no GPU."""
    unwanted = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_', 'SLURM_')
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(unwanted)
    }
    bins = (str(Path(sys.executable).parent), environ['PATH'])
    environ.update(
        PATH=os.pathsep.join(bins),
        PYTHONPATH=str(Path(__file__).parent),
        CUDA_VISIBLE_DEVICES='',
        OMP_NUM_THREADS='1',
        PORT=free_port(),
    )
    environ.update({name: str(value) for name, value in variables.items()})
    return environ


def start(
    script: str, *args: object, cwd: Path, **variables: object
) -> subprocess.Popen:
    """Starts a launch script."""
    return subprocess.Popen(
        ['bash', str(TOOLS / script), *map(str, args)],
        cwd=cwd,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    """Waits for a script that has to succeed and returns what it printed."""
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    return output
