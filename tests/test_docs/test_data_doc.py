"""The own-data commands of docs/data.md, run as they stand there."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from forked_scripts import ForkedPopen
from PIL import Image

REPO = Path(__file__).parents[2]
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
