"""What the README shows runs as it stands."""

import re
from pathlib import Path

import pytest
from tiny_training import write_data

from ltml_mm.apis import train

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures('quick')
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```', README, re.M | re.S)


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
