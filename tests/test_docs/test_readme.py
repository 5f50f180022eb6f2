"""What the README shows runs as it stands."""

import re
from pathlib import Path

import pytest
from tiny_training import write_data

from ltml_mm.apis import test, train

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
    assert path.read_text(encoding='utf-8') in blocks('python')
    data, work = write_data(tmp_path / 'data'), tmp_path / 'work'
    (data / 'test.json').write_bytes((data / 'train.json').read_bytes())
    words = (
        f'{path} --data {data} --work-dir {work} --epochs 1 --batch-size 4 '
        '--size 32 --cfg-options model.backbone.depth=18 '
        'model.backbone.stem_channels=4 model.backbone.base_channels=4 '
        'model.backbone.init_cfg=None train_dataloader.num_workers=0 '
        'test_dataloader.num_workers=0 experiment_name=readme'
    )
    train.main(words.split())
    test.main([f'{work}/own_config.py', f'{work}/epoch_1.pth'])
    assert list(work.rglob('test_class_report.json'))
