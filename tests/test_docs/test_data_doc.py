"""The own-data commands of docs/data.md, run as they stand there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPO = Path(__file__).parents[2]
DOC = (REPO / 'docs' / 'data.md').read_text(encoding='utf-8')
SHARED = REPO / 'ltml_mm' / 'datasets' / 'converters' / 'convert.py'
# A small network without downloaded weights, and one step an epoch.
SHORTER = (
    'model.backbone.depth=18 model.backbone.init_cfg=None '
    'train_dataloader.batch_size=4 train_dataloader.num_workers=0 '
    'train_dataloader.persistent_workers=False '
    'train_dataloader.sampler.epoch_length=4 '
    'val_dataloader.num_workers=0 val_dataloader.persistent_workers=False '
    'test_dataloader.num_workers=0 test_dataloader.persistent_workers=False '
    'param_scheduler.0.end=1 '
    'train_cfg.val_interval=8 default_hooks.checkpoint.interval=8'
)
COLOURS = {'red': (200, 30, 30), 'green': (30, 200, 30), 'blue': (30, 30, 200)}


def commands(heading):
    """The shell commands below a heading, up to the next one."""
    section = DOC.split(f'\n## {heading}\n')[1].split('\n#')[0]
    blocks = re.findall(r'```bash\n(.*?)```', section, re.DOTALL)
    text = ''.join(blocks).replace('\\\n', ' ')
    return [' '.join(line.split()) for line in text.splitlines()]


def make_pictures(folder):
    """Pictures with a coloured bar for every label."""
    rng = np.random.default_rng(0)
    (folder / 'images').mkdir(parents=True)
    lines = ['path,labels']
    for index in range(30):
        shown = [c for c in COLOURS if rng.random() < 0.5]
        picture = rng.integers(0, 60, (48, 48, 3), np.uint8)
        for bar, name in enumerate(shown):
            picture[:, 16 * bar : 16 * bar + 12] = COLOURS[name]
        path = f'images/{index:04d}.jpg'
        Image.fromarray(picture).save(folder / path)
        lines.append(f'{path},{";".join(shown)}')
    (folder / 'labels.csv').write_text('\n'.join(lines) + '\n')


@pytest.fixture
def checkout(tmp_path):
    for name in ('tools', 'configs'):
        (tmp_path / name).symlink_to(REPO / name)
    make_pictures(tmp_path / 'data' / 'my_data')
    return tmp_path


def test_own_data_commands_run(checkout):
    environment = {
        **os.environ,
        'PATH': f'{Path(sys.executable).parent}{os.pathsep}'
        + os.environ['PATH'],
        'OMP_NUM_THREADS': '1',
    }
    tools = []
    for command in commands('Your own data'):
        tool = re.match(r'python tools/(\S+)\.py ', command)[1]
        tools.append(tool)
        if tool in ('train', 'test', 'predict'):
            command += f' --cfg-options {SHORTER}'
        done = subprocess.run(
            command,
            shell=True,
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f'{command}\n{done.stderr[-3000:]}'
    assert tools == [
        'dataset_converters/custom',
        'analysis/dataset_report',
        'train',
        'test',
        'predict',
    ]
    # The test set was held out and its result was computed.
    test = json.loads((checkout / 'data/my_data/test.json').read_text())
    assert len(test['data_list']) == 6
    assert test['metainfo']['classes'] == ['blue', 'green', 'red']
    work = checkout / 'work_dirs' / 'ltml_custom'
    assert (work / 'epoch_8.pth').is_file()
    assert 'multi-label/mAP' in done_log(work)
    assert any((checkout / 'out' / 'predictions').iterdir())


def done_log(work):
    return ''.join(p.read_text() for p in work.rglob('*.log'))


@pytest.mark.parametrize('heading', ['VOC-LT', 'COCO-LT'])
def test_commands_name_what_exists(heading):
    for command in commands(heading):
        for path in re.findall(r'(?:tools|configs)/\S+\.py', command):
            assert (REPO / path).is_file(), path
        script = re.match(r'python (tools/dataset_converters/\S+)', command)
        if script:
            known = (REPO / script[1]).read_text() + SHARED.read_text()
            for option in re.findall(r'--[a-z-]+', command):
                assert f"'{option}'" in known
