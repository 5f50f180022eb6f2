"""What pages say of backbones, data and themselves is so."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from forked_scripts import ForkedPopen
from PIL import Image
from tiny_training import write_data

from ltml_mm.apis import test, train

REPO = Path(__file__).parents[2]


def test_the_page_shows_every_row(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / 'tests' / 'test_models'))
    from fork_rows import table

    sys.modules.pop('fork_rows', None)
    page = (REPO / 'docs' / 'backbones.md').read_text('utf-8')
    assert table() in page


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


DOC = (REPO / 'docs' / 'data.md').read_text(encoding='utf-8')
# A small network without downloaded weights, and one step an epoch.
SHORTER = (
    'model.backbone.depth=18 model.backbone.init_cfg=None '
    'model.backbone.stem_channels=4 model.backbone.base_channels=4 '
    'train_dataloader.batch_size=4 train_dataloader.num_workers=0 '
    'train_dataloader.persistent_workers=False '
    'train_dataloader.sampler.epoch_length=4 '
    'val_dataloader.num_workers=0 val_dataloader.persistent_workers=False '
    'test_dataloader.num_workers=0 test_dataloader.persistent_workers=False '
    'param_scheduler.0.end=1 '
    'train_cfg.val_interval=8 default_hooks.checkpoint.interval=8'
)
CLASSES = ['blue', 'green', 'red']


def commands(heading):
    """The shell commands below a heading, up to the next one."""
    section = DOC.split(f'\n## {heading}\n')[1].split('\n#')[0]
    blocks = re.findall(r'```bash\n(.*?)```', section, re.DOTALL)
    text = ''.join(blocks).replace('\\\n', ' ')
    return [' '.join(line.split()) for line in text.splitlines()]


def make_pictures(folder):
    (folder / 'images').mkdir(parents=True)
    lines = ['path,labels']
    for index in range(30):
        path = f'images/{index:04d}.jpg'
        Image.new('RGB', (48, 48), (8 * index, 0, 0)).save(folder / path)
        labels = [name for k, name in enumerate(CLASSES) if index >> k & 1]
        lines.append(f'{path},{";".join(labels)}')
    (folder / 'labels.csv').write_text('\n'.join(lines) + '\n')


def test_own_data_commands_run(tmp_path):
    for name in ('tools', 'configs'):
        (tmp_path / name).symlink_to(REPO / name)
    make_pictures(tmp_path / 'data' / 'my_data')
    tools = []
    for command in commands('Your own data'):
        tools.append(re.match(r'python tools/(\S+)\.py ', command)[1])
        if tools[-1] in ('train', 'test', 'predict'):
            command += f' --cfg-options {SHORTER}'
        with ForkedPopen(
            [sys.executable, *shlex.split(command)[1:]],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            _, errors = process.communicate()
        assert process.returncode == 0, f'{command}\n{errors[-3000:]}'
    assert tools == [
        'dataset_converters/custom',
        'analysis/dataset_report',
        'train',
        'test',
        'predict',
    ]
    # The test set was held out and its result was computed.
    test = json.loads((tmp_path / 'data/my_data/test.json').read_text())
    assert len(test['data_list']) in (6, 7)
    assert test['metainfo']['classes'] == CLASSES
    work = tmp_path / 'work_dirs' / 'ltml_custom'
    assert (work / 'epoch_8.pth').is_file()
    assert 'multi-label/mAP' in ''.join(
        path.read_text() for path in work.rglob('*.log')
    )
    assert any((tmp_path / 'out' / 'predictions').iterdir())
