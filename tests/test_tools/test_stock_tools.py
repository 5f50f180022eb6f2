"""MMPretrain's own tools take the configs, and ours take runner_type."""

import json
import subprocess
import sys
from pathlib import Path

import mmpretrain
import pytest
from mmengine.registry import RUNNERS
from tiny_comparison import options, write_set

from ltml_mm.apis import test as testing
from ltml_mm.apis import train as training

REPO = Path(__file__).parents[2]
CUSTOM = str(REPO / 'configs' / 'ltml_custom.py')
#: Where the wheels of both stacks keep them.
STOCK = Path(mmpretrain.__file__).parent / '.mim' / 'tools'


def call(tool, *arguments):
    done = subprocess.run(
        [sys.executable, str(STOCK / tool), CUSTOM, *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_stock_tools_train_and_test_on_own_data(tmp_path):
    data = write_set(tmp_path / 'photos')
    work = ('--work-dir', str(tmp_path / 'work'))
    size = 'train_dataloader.batch_size=2'
    changed = ('--cfg-options', *options(data), size)
    call('train.py', *work, *changed)
    checkpoint = str(tmp_path / 'work' / 'epoch_2.pth')
    out = tmp_path / 'stock.json'
    written = ('--out', str(out), '--out-item', 'metrics')
    call('test.py', checkpoint, *written, *work, *changed)
    own = tmp_path / 'own.json'
    testing.main([CUSTOM, checkpoint, '--out', str(own), *work, *changed])
    found = json.loads(out.read_text())
    assert found == json.loads(own.read_text())['metrics']
    assert 0 < found['multi-label/mAP'] <= 100


@pytest.mark.parametrize(
    ('tool', 'arguments'), [(training, []), (testing, ['epoch_1.pth'])]
)
def test_our_tools_build_the_runner_that_a_config_names(
    tool, arguments, tmp_path, monkeypatch
):
    built = []

    class Own:
        @staticmethod
        def from_cfg(cfg):
            built.append(cfg)
            raise KeyboardInterrupt

    monkeypatch.setitem(RUNNERS.module_dict, 'Own', Own)
    monkeypatch.setattr(testing, 'read_checkpoint', lambda path: {})
    arguments = [f'{REPO}/configs/ltml_demo.py', *arguments]
    options = ['--work-dir', str(tmp_path), '--cfg-options', 'runner_type=Own']
    with pytest.raises(KeyboardInterrupt):
        tool.main([*arguments, *options])
    assert built[0].model.num_classes == 20
