"""Every benchmark runs; what it measures is not tested."""

import importlib
import json
import subprocess
import sys

import pytest
import torch
from mmengine.registry import init_default_scope
from tiny_run import TOOLS, environment

FOLDER = TOOLS / 'benchmarks'
#: The smallest size of each. compare.py, which trains, has tests of its own.
SMALLEST = {
    'converters': '--scale 0.003 --repeats 1',
    'dataset_load': '--repeats 1',
    'load': '--steps 8 --epoch 2 --workers 1 --pairs 2',
    'loading': '--pictures 64 --epochs 1',
    'metric': '--images 100 --classes 5 --repeats 1',
    'sampling': '--images 100 --classes 5 --repeats 1',
    'step_time': '--images 4 --side 32 --repeats 1 --tasks training '
    '--backbone type=ResNet depth=18 base_channels=8 stem_channels=8',
}


@pytest.mark.parametrize(
    'name',
    sorted(
        path.stem
        for path in FOLDER.glob('*.py')
        if path.stem not in ('compare', 'timing')
    ),
)
def test_benchmark_runs_at_its_smallest_size(name, tmp_path):
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
def test_labels_of_a_batch_lie_on_the_device_of_its_images(kind, monkeypatch):
    # Any device but the CPU will do, so one that needs no GPU.
    init_default_scope('mmpretrain')
    monkeypatch.syspath_prepend(FOLDER)
    step_time = importlib.import_module('step_time')
    images = torch.empty(4, 3, 8, 8, device='meta')
    samples = step_time.make_batch(kind, images)['data_samples']
    rows = samples.values() if kind == 'two_branch' else [samples]
    labels = [sample.gt_label for row in rows for sample in row]
    assert [label.device for label in labels] == [images.device] * 4
