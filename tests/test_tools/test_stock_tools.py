"""MMPretrain's own tools take the configs, and ours take runner_type."""

import inspect
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import mmpretrain
import numpy as np
import pytest
from forked_scripts import ForkedPopen
from matplotlib import _tight_bbox
from mmengine.registry import RUNNERS
from PIL import Image
from tiny_comparison import options, write_set
from tiny_training import extend, write_small

from ltml_mm.apis import test as testing
from ltml_mm.apis import train as training

REPO = Path(__file__).parents[2]
CUSTOM = str(REPO / 'configs' / 'ltml_custom.py')
#: Where the wheels of both stacks keep them.
STOCK = Path(mmpretrain.__file__).parent / '.mim' / 'tools'
LONGER = [
    '--cfg-options',
    'train_cfg.max_epochs=2',
    'default_hooks.exact_resume.on_change=warn',
]


def call(tool, *arguments):
    done = subprocess.run(
        [sys.executable, str(STOCK / tool), CUSTOM, *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The work directory of a training by MMPretrain's tool, and its set."""
    folder = tmp_path_factory.mktemp('stock')
    data, work = write_set(folder / 'photos'), folder / 'work'
    size = 'train_dataloader.batch_size=2'
    changed = ('--cfg-options', *options(data), size)
    call('train.py', '--work-dir', str(work), *changed)
    return work, data, changed


def test_stock_tools_train_and_test_on_own_data(
    trained, tmp_path, monkeypatch
):
    work, _, changed = trained
    folder = ('--work-dir', str(tmp_path))
    checkpoint = str(work / 'epoch_2.pth')
    out = tmp_path / 'stock.json'
    monkeypatch.setattr(subprocess, 'Popen', ForkedPopen)
    written = ('--out', str(out), '--out-item', 'metrics')
    call('test.py', checkpoint, *written, *folder, *changed)
    own = tmp_path / 'own.json'
    testing.main([CUSTOM, checkpoint, '--out', str(own), *folder, *changed])
    found = json.loads(out.read_text())
    assert found == json.loads(own.read_text())['metrics']
    assert 0 < found['multi-label/mAP'] <= 100


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a tool of MMPretrain in this process and returns what it says."""

    def run(tool, *arguments):
        monkeypatch.setattr('sys.argv', [tool, *map(str, arguments)])
        runpy.run_path(str(STOCK / tool), run_name='__main__')
        return capsys.readouterr().out

    return run


@pytest.fixture
def older_matplotlib(monkeypatch):
    """Takes the call of the tool, which matplotlib 3.11 refuses."""
    adjust = _tight_bbox.adjust_bbox
    if 'renderer' in inspect.signature(adjust).parameters:
        monkeypatch.setattr(
            _tight_bbox,
            'adjust_bbox',
            lambda figure, box: adjust(figure, box, None),
        )


@pytest.mark.parametrize('mode', ['original', 'transformed', 'pipeline'])
@pytest.mark.parametrize('phase', ['train', 'test'])
def test_browse_dataset(trained, run, older_matplotlib, tmp_path, phase, mode):
    work, data, _ = trained
    asked = ('--phase', phase, '--mode', mode, '--show-number', 2)
    run(
        'visualization/browse_dataset.py',
        work / 'ltml_custom.py',
        *('--output-dir', tmp_path / 'out', '--not-show', *asked),
    )
    paths = [e['img_path'] for e in load(data / 'train.json')['data_list']]
    found = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert found == sorted(Path(path).name for path in paths[:2])


def load(path):
    return json.loads(Path(path).read_text('utf-8'))


def test_vis_cam(trained, run, tmp_path, monkeypatch):
    cams = pytest.importorskip('pytorch_grad_cam', reason='needs grad-cam')

    start = cams.GradCAM.__init__

    def older(self, model, target_layers, use_cuda=False):
        """Takes what the original tool gives, as grad-cam did before 1.5."""
        start(self, model, target_layers)

    monkeypatch.setattr(cams.GradCAM, '__init__', older)
    work, data, _ = trained
    image = data / load(data / 'train.json')['data_list'][0]['img_path']
    maps = []
    for category in (0, 1):
        out = tmp_path / f'{category}.png'
        run(
            'visualization/vis_cam.py',
            *(image, work / 'ltml_custom.py', work / 'epoch_2.pth'),
            *('--target-category', category, '--save-path', out),
        )
        maps.append(np.asarray(Image.open(out)))
    assert maps[0].shape == (64, 64, 3)
    assert not np.array_equal(*maps)


def test_analyze_logs(trained, run, tmp_path):
    work, _, _ = trained
    log = next(work.glob('*/vis_data/scalars.json'))
    tool = 'analysis_tools/analyze_logs.py'
    assert 'average iter time: ' in run(tool, 'cal_train_time', log)
    out = tmp_path / 'curve.png'
    for keys in (['loss'], ['multi-label/mAP']):
        run(tool, 'plot_curve', log, '--keys', *keys, '--out', out)
        assert Image.open(out).size[0] > 100
        out.unlink()


@pytest.mark.parametrize('config', ['ltml_demo.py', None])
def test_get_flops_and_print_config(trained, run, config):
    """Those of the package, and the complete one in a work directory."""
    work, _, _ = trained
    path = REPO / 'configs' / config if config else work / 'ltml_custom.py'
    shown = run('misc/print_config.py', path)
    assert "type='CollaborativeTwoBranchClassifier'" in shown
    shown = run('analysis_tools/get_flops.py', path, '--shape', 64)
    assert re.search(r'Flops: [1-9][0-9.]*M', shown)


@pytest.mark.parametrize('prefix', [None, 'other'])
def test_stock_metrics_beside_ours(trained, tmp_path, prefix, quick):
    work, _, changed = trained
    metrics = [
        {'type': 'GroupedAveragePrecision'},
        {'type': 'AveragePrecision', 'prefix': prefix},
        {'type': 'MultiLabelMetric', 'thr': 0.5},
    ]
    if prefix is None:
        del metrics[1]
        metrics.insert(0, {'type': 'mmpretrain.AveragePrecision'})
    out = tmp_path / 'out.json'
    told = f'test_evaluator={metrics}'
    folder = ('--work-dir', str(tmp_path), '--out', str(out))
    testing.main([CUSTOM, str(work / 'epoch_2.pth'), *folder, *changed, told])
    found = load(out)['metrics']
    stock = found[f'{prefix or "mmpretrain"}/mAP']
    assert stock == pytest.approx(found['multi-label/mAP'], 1e-4)
    assert {'multi-label/precision', 'multi-label/recall'} <= set(found)


@pytest.mark.parametrize(
    ('tool', 'arguments'), [(training, []), (testing, ['epoch_1.pth'])]
)
def test_our_tools_build_the_runner_that_a_config_names(
    tool, arguments, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path('epoch_1.pth').touch()
    built = []

    class Own:
        @staticmethod
        def from_cfg(cfg):
            built.append(cfg)
            raise KeyboardInterrupt

    monkeypatch.setitem(RUNNERS.module_dict, 'Own', Own)
    empty = {'state_dict': {}}
    monkeypatch.setattr(testing, 'read_checkpoint', lambda path: empty)
    arguments = [f'{REPO}/configs/ltml_demo.py', *arguments]
    work = ['--work-dir', str(tmp_path / 'work')]
    options = [*work, '--cfg-options', 'runner_type=Own']
    with pytest.raises(KeyboardInterrupt):
        tool.main([*arguments, *options])
    assert built[0].model.num_classes == 20


def test_the_flexible_runner_goes_on_with_more_epochs(tmp_path, capsys, quick):
    config = write_small(tmp_path)
    flexible = extend(config, "runner_type = 'FlexibleRunner'")
    training.main([str(flexible)])
    training.main([str(flexible), '--resume', *LONGER])
    assert 'It goes on with those' in capsys.readouterr().out
    assert (tmp_path / 'work' / 'epoch_2.pth').is_file()
