"""Runs a tool on a tiny set as its script does, and keeps what it says."""

import io
import itertools
import json
import re
from contextlib import redirect_stderr
from pathlib import Path

from tiny_training import write_data

from ltml_mm.apis import predict, test, train
from ltml_mm.apis.cli import run_tool

REPO = Path(__file__).parents[2]
NUMBERS = itertools.count()

#: The shipped config with a network and pictures of next to no size.
CONFIG = """
_base_ = '{repo}/configs/ltml_custom.py'
experiment_name = 'bad_input_{number}'
data_root = '{data}'
work_dir = '{folder}/work'
log_level = 'ERROR'
model = dict(
    backbone=dict(
        depth=18, stem_channels=4, base_channels=4, init_cfg=None))
train = [
    dict(type='LoadCheckedImage'),
    dict(type='RandomRatioCrop', min_ratio=0.8),
    dict(type='Resize', scale=(32, 32), keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs')]
test = [
    dict(type='LoadCheckedImage'),
    dict(type='Resize', scale=(32, 32), keep_ratio=False),
    dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=5, num_workers=0, persistent_workers=False,
    sampler=dict(epoch_length=10, seed=3),
    dataset=dict(dataset=dict(pipeline=train)))
val_dataloader = dict(
    batch_size=5, num_workers=0, persistent_workers=False,
    dataset=dict(pipeline=test))
test_dataloader = val_dataloader
param_scheduler = []
train_cfg = dict(max_epochs=1)
"""
#: The same network with one branch, of stock parts.
PLAIN = """
model = dict(
    _delete_=True, type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, stem_channels=4, base_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='MultiLabelLinearClsHead', num_classes=3, in_channels=32))
train_dataloader = dict(sampler=dict(streams=dict(
    _delete_=True, uniform=dict(type='UniformSampler'))))
"""


def write_case(folder, labels=None, plain=False, classes=None):
    """Writes pictures, annotations and a config; returns the config."""
    data = write_data(folder / 'data', labels)
    content = json.loads((data / 'train.json').read_text())
    if classes is not None:
        content['metainfo']['classes'] = classes
    for split in ('train', 'test'):
        (data / f'{split}.json').write_text(json.dumps(content))
    config = folder / 'tiny.py'
    text = CONFIG.format(
        repo=REPO, data=data, folder=folder, number=next(NUMBERS)
    )
    config.write_text(text)
    return extend(config, PLAIN) if plain else config


def extend(config, text):
    """Writes a config that changes another; returns its path."""
    changed = config.with_name('changed.py')
    changed.write_text(f"_base_ = '{config}'\n{text}")
    return changed


def run_main(main, *args):
    """Runs a tool; returns its exit status and what it wrote to stderr."""
    shown = io.StringIO()
    try:
        with redirect_stderr(shown):
            run_tool(lambda: main(list(map(str, args))))
    except SystemExit as error:
        return error.code, shown.getvalue()
    return 0, shown.getvalue()


def training(config, *options):
    """Trains with ``--cfg-options``."""
    more = ['--cfg-options', *options] if options else []
    return run_main(train.main, config, *more)


def resumption(config, checkpoint, *options):
    """Resumes from a checkpoint with ``--cfg-options``."""
    more = ['--cfg-options', *options] if options else []
    return run_main(train.main, config, '--resume', checkpoint, *more)


def evaluation(config, checkpoint, *flags):
    """Evaluates a checkpoint."""
    return run_main(test.main, config, checkpoint, *flags)


def prediction(config, checkpoint, *args):
    """Predicts."""
    return run_main(predict.main, config, checkpoint, *args, '--device', 'cpu')


def assert_refused(outcome, *patterns):
    """One line that says all of this, status 1."""
    status, shown = outcome
    lines = [line for line in shown.splitlines() if line.startswith('error:')]
    assert status == 1, shown
    assert len(lines) == 1, shown
    assert shown.endswith(f'{lines[0]}\n'), shown
    for pattern in patterns:
        assert re.search(pattern, lines[0]), lines[0]


def assert_nothing_half_written(folder):
    """A refused run leaves its log alone: no checkpoint, no part of one."""
    left = {path.suffix for path in folder.rglob('*') if path.is_file()}
    assert not left & {'.pth', '.tmp', '.sha256'}, left
