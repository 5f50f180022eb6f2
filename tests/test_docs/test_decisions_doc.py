"""The walk-through of docs/decisions.md, run as it stands there."""

import re
import shlex
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltml_cli import TOOLS, parse
from ltml_mm.decisions.thresholds import read_thresholds

REPO = Path(__file__).parents[2]
DOC = (REPO / 'docs' / 'decisions.md').read_text(encoding='utf-8')
# A small network without downloaded weights, and one step an epoch.
SHORTER = """
model.backbone.depth=18 model.backbone.init_cfg=None
model.backbone.stem_channels=4 model.backbone.base_channels=4
train_dataloader.batch_size=4 train_dataloader.num_workers=0
train_dataloader.persistent_workers=False
train_dataloader.sampler.epoch_length=4
train_dataloader.dataset.dataset.pipeline.2.scale=(32,32)
val_dataloader.num_workers=0 val_dataloader.persistent_workers=False
val_dataloader.dataset.pipeline.1.scale=(32,32)
test_dataloader.num_workers=0 test_dataloader.persistent_workers=False
test_dataloader.dataset.pipeline.1.scale=(32,32)
param_scheduler.0.end=1 default_hooks.checkpoint.interval=8
"""
CLASSES = ['blue', 'green', 'red']


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```', DOC, re.M | re.S)


def make_pictures(folder):
    (folder / 'images').mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ['path,labels']
    for index in range(60):
        path = f'images/{index:04d}.png'
        pixels = rng.integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(pixels).save(folder / path)
        labels = [name for k, name in enumerate(CLASSES) if index >> k & 1]
        lines.append(f'{path},{";".join(labels)}')
    (folder / 'labels.csv').write_text('\n'.join(lines) + '\n')


def test_the_walk_through_runs(tmp_path, monkeypatch, capsys, quick):
    monkeypatch.chdir(tmp_path)
    for name in ('tools', 'configs'):
        (tmp_path / name).symlink_to(REPO / name)
    make_pictures(tmp_path / 'data' / 'my_data')
    mains = {f'tools/{tool.script}': tool.run for tool in TOOLS.values()}
    ran = []
    text = ''.join(blocks('bash')).replace('\\\n', ' ')
    for number, line in enumerate(text.splitlines()):
        python, script, *words = shlex.split(line)
        assert python == 'python'
        if script.endswith('export.py') and not find_spec('onnxscript'):
            continue
        if 'configs/ltml_custom.py' in words:
            words += [*SHORTER.split(), f'experiment_name=step_{number}']
        if script == 'tools/demo_page.py':  # it would serve for ever
            assert parse('demo-page', words).host == '127.0.0.1'
            continue
        module, function = mains[script].split(':')
        getattr(import_module(module), function)(words)
        shown = capsys.readouterr()
        assert 'guess' not in shown.err, line
        ran.append((Path(script).stem, shown.out))
    tools = [name for name, _ in ran]
    assert {'custom', 'train', 'predict', 'thresholds', 'test'} <= {*tools}
    said = [out for name, out in ran if name == 'predict']
    # Each of them decides by thresholds.
    assert all('| Threshold' in out or '| -' in out for out in said)
    work = tmp_path / 'work_dirs' / 'ltml_custom'
    metrics = {
        path: read_thresholds(tmp_path / path).metric
        for path in ('out/careful.json', 'out/cross_fit.json')
    }
    assert [*metrics.values()] == ['precision=0.9', 'f1']
    assert (tmp_path / 'out' / 'reliability.png').is_file()
    report = tmp_path / 'out' / 'report' / 'report.html'
    assert 'One threshold a class, for f1' in report.read_text('utf-8')
    card = (tmp_path / 'out' / 'hub' / 'README.md').read_text()
    assert 'license: "apache-2.0"' in card
    assert '| test.json' in card or 'test.json |' in card
    (snippet,) = blocks('python')
    names = {}
    exec(snippet, names)
    assert capsys.readouterr().out.count('.png') == 60
    assert names['inferencer'].thresholds.names == CLASSES
    assert work.is_dir()


ENTRIES = ['format', 'model', 'metric', 'chosen_on', 'calibration', 'summary']


@pytest.mark.parametrize('name', [*ENTRIES, 'classes'])
def test_the_shown_file_has_every_entry(name):
    (shown,) = blocks('json')
    assert f'"{name}"' in shown
