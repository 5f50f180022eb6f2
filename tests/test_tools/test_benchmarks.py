"""Every benchmark runs; what it measures is not tested."""

import importlib
import json
import multiprocessing
import subprocess
import sys

import pytest
import torch
from forked_scripts import ForkedPopen
from mmengine.registry import init_default_scope
from tiny_run import TOOLS, environment
from tiny_training import REPO, write_small

FOLDER = TOOLS / 'benchmarks'
#: A config, and what makes it small.
SMALL = (
    f'{REPO}/configs/ltml_demo.py --cfg-options '
    'model.backbone.base_channels=8 model.backbone.stem_channels=8 '
    'train_dataloader.sampler.epoch_length=16 train_dataloader.batch_size=4'
)
#: The smallest size of each. compare.py, which trains, has tests of its own.
SMALLEST = {
    'converters': '--scale 0.003 --repeats 1',
    'dataset_load': '--repeats 1',
    'end_to_end': '--pictures 8 --images 4 --batch 4 --side 32 --workers 1 '
    '--epochs 2 --rounds 2 --depth 18 --channels 8',
    'load': '--steps 8 --epoch 2 --workers 1 --pairs 2',
    'loading': '--pictures 64 --epochs 1',
    'metric': '--images 100 --classes 5 --repeats 1',
    'sampling': '--images 100 --classes 5 --repeats 1',
    'step_time': '--images 4 --side 32 --repeats 1 --tasks training '
    '--backbone type=ResNet depth=18 base_channels=8 stem_channels=8',
    'startup': '--repeats 1 --warm-up 0',
    'throughput': f'{SMALL} --images 8 --seconds 0',
}


@pytest.mark.parametrize(
    'name',
    sorted(
        path.stem
        for path in FOLDER.glob('*.py')
        if path.stem not in ('compare', 'pictures', 'stock', 'timing')
    ),
)
def test_benchmark_runs_at_its_smallest_size(name, tmp_path, monkeypatch):
    # The benchmark is a fork, and so is each process that it starts.
    monkeypatch.setattr(subprocess, 'Popen', ForkedPopen)
    context = multiprocessing.get_context('fork')
    monkeypatch.setattr(multiprocessing, 'get_context', lambda *_: context)
    out = tmp_path / 'out.json'
    arguments = [*SMALLEST[name].split(), '--out', str(out)]
    paths = {'PYTHONPATH': f'{TOOLS.parent}'}
    done = subprocess.run(
        [sys.executable, str(FOLDER / f'{name}.py'), *arguments],
        env=environment(**paths),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(out.read_text())
    for run in ('whole_run', 'ctrl_c') if name == 'load' else ():
        assert not json.loads(out.read_text())[run]['processes_left']


@pytest.mark.parametrize('kind', ['stock', 'two_branch'])
def test_labels_lie_where_the_preprocessor_has_them(kind, monkeypatch):
    # Any device but the CPU will do, so one that needs no GPU.
    init_default_scope('mmpretrain')
    monkeypatch.syspath_prepend(FOLDER)
    step_time = importlib.import_module('step_time')
    images = torch.empty(4, 3, 8, 8, device='meta')
    samples = step_time.make_batch(kind, images)['data_samples']
    rows = samples.values() if kind == 'two_branch' else [samples]
    labels = [sample.gt_label for row in rows for sample in row]
    place = images.device if kind == 'stock' else torch.device('cpu')
    assert [label.device for label in labels] == [place] * 4


STOCK = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='MultiLabelLinearClsHead', num_classes=3, in_channels=64))
data_preprocessor = dict(
    mean=[0.0] * 3, std=[255.0] * 3, num_classes=3, to_onehot=True)
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='MultiLabelDataset', ann_file='train.json', data_root='{data}',
        pipeline=[dict(type='LoadImageFromFile'),
                  dict(type='Resize', scale=32), dict(type='PackInputs')]))
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
compile = dict(backend='eager')
"""


@pytest.mark.parametrize('kind', ['own', 'stock'])
def test_throughput_of_files(kind, tmp_path, monkeypatch, capsys):
    """A folder of one's own pictures, and a config of MMPretrain's."""
    config = write_small(tmp_path)
    if kind == 'stock':
        config = tmp_path / 'stock.py'
        config.write_text(STOCK.replace('{data}', str(tmp_path / 'data')))
    monkeypatch.syspath_prepend(FOLDER)
    throughput = importlib.import_module('throughput')
    out = tmp_path / 'out.json'
    command = [str(config), '--images', '8', '--seconds', '0']
    torch._dynamo.utils.counters.clear()
    throughput.main([*command, '--device', 'cpu', '--out', str(out)])
    assert bool(torch._dynamo.utils.counters) == (kind == 'stock')
    assert 'What to set:' in capsys.readouterr().out
    result = json.loads(out.read_text())
    loading = {'own': 'LoadCheckedImage', 'stock': 'LoadImageFromFile'}[kind]
    assert result['pipeline']['second_pass'][loading] > 0
    assert result['device']['images'] == {'own': 10, 'stock': 4}[kind]
    assert result['limit'] in ('the loader', 'the device')
    result['machine']['device'], result['loader_ms'] = 'cuda:0', 0
    for host, limit in ((95, 'the host'), (80, 'the device')):
        result['device'].update(host=host, step=100)
        found, (advice, *_) = throughput.advise({}, None, result, 2)
        assert (found, 'compile' in advice) == (limit, limit == 'the host')
