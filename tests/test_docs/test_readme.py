"""What the README shows runs as it stands."""

import json
import re
import shlex
from pathlib import Path

import pytest
from tiny_training import write_data

from ltml_cli import TOOLS
from ltml_mm.apis import train

ROOT = Path(__file__).parents[2]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
PARSERS = {f'tools/{tool.script}': tool.build for tool in TOOLS.values()}
SURFACE = json.loads((ROOT / 'tests' / 'public_surface.json').read_text())


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
    """The README shows the file; here it trains, smaller."""
    path = ROOT / 'docs' / 'examples' / 'own_config.py'
    text = path.read_text(encoding='utf-8')
    assert text in blocks('python')
    train.main(
        [
            *(str(path), '--data', str(write_data(tmp_path / 'data'))),
            *('--work-dir', str(tmp_path / 'work'), '--epochs=1'),
            *('--batch-size=4', '--size=32', '--cfg-options'),
            *('model.backbone.depth=18', 'model.backbone.stem_channels=4'),
            *('model.backbone.base_channels=4', 'experiment_name=readme'),
            'train_dataloader.num_workers=0',
        ]
    )
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file()
