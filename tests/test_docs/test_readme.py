"""What the README shows runs as it stands."""

import json
import re
import shlex
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_training import write_data

from ltml_cli import TOOLS

ROOT = Path(__file__).parents[2]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
PARSERS = {f'tools/{tool.script}': tool.build for tool in TOOLS.values()}
SURFACE = json.loads((ROOT / 'tests' / 'public_surface.json').read_text())
BACKBONE = (
    "backbone=dict(type='ResNet', depth=18, stem_channels=4, "
    'base_channels=4), num_classes=3'
)


def blocks(language, text=README):
    return re.findall(rf'^```{language}\n(.*?)^```', text, re.M | re.S)


def commands():
    """The commands of all blocks that call a tool or a script."""
    data = (ROOT / 'docs' / 'data.md').read_text(encoding='utf-8')
    for block in blocks('bash', README + data):
        for line in block.replace('\\\n', ' ').splitlines():
            for command in line.split('&&'):
                if 'tools/' in command:
                    yield shlex.split(command)


@pytest.mark.parametrize('command', commands(), ids=' '.join)
def test_commands_are_taken(command):
    start = next(i for i, word in enumerate(command) if 'tools/' in word)
    tool, words = command[start], command[start + 1 :]
    if build := PARSERS.get(tool):
        build().parse_args(words)
    elif tool in SURFACE['flags']:
        flags = {word for word in words if word.startswith('--')}
        assert flags <= {*SURFACE['flags'][tool].split()}


def test_linked_files_exist():
    links = re.findall(r'\]\((?!https?:)([^)#]+)\)', README)
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link


def test_own_config_trains(tmp_path):
    block = next(b for b in blocks('python') if 'custom_imports' in b)
    data = f'data_root={str(write_data(tmp_path / "data"))!r}'
    pipeline = (
        "ann_file='train.json', pipeline=[dict(type='LoadImageFromFile'), "
        "dict(type='Resize', scale=(32, 32)), dict(type='PackInputs')]"
    )
    text = block.replace("Dataset', ...", f"Dataset', {data}, {pipeline}")
    text = text.replace("Classifier', ...", f"Classifier', {BACKBONE}")
    assert '...' not in text
    cfg = Config.fromstring(text, '.py')
    cfg.merge_from_dict(
        dict(
            default_scope='mmpretrain',
            experiment_name='readme',
            work_dir=str(tmp_path),
            train_dataloader=dict(batch_size=4, num_workers=0),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        )
    )
    Runner.from_cfg(cfg).train()
    assert (tmp_path / 'epoch_1.pth').is_file()
