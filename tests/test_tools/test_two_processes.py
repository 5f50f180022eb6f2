"""Two gloo processes, as the launch scripts start them, against one."""

import json
import os

import pytest
import tiny_run
import torch
from mmengine.runner import Runner
from rank_probe import STREAMS

from ltml_cli import parse
from ltml_mm.apis import test, train
from ltml_mm.apis.checkpoint import find_whole_checkpoint

pytestmark = pytest.mark.usefixtures('quick')
HALF = f'train_dataloader.batch_size={tiny_run.BATCH // 2}'
SIGNALLED = """
_base_ = 'run.py'
custom_imports = dict(imports=['ltml_mm', 'signal_sender'])
custom_hooks = [dict(type='SendSignal', {sender})]
train_dataloader = dict(batch_size=2)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two processes')
    tiny_run.write_run(folder)
    return folder


@pytest.fixture(scope='module')
def on_cpu():
    """Computes as the launched processes do: no GPU, one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.device.utils.DEVICE', 'cpu')
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def one(folder, on_cpu):
    """What one process did with whole batches."""
    argv = [str(folder / 'run.py'), '--work-dir', str(folder / 'one')]
    cfg = train.training_config(parse('train', argv))
    cfg.experiment_name = 'one process'
    Runner.from_cfg(cfg).train()
    return read(folder, 0, 1)


@pytest.fixture(scope='module')
def two(folder):
    """What each of two processes did with half of every batch."""
    options = ('--work-dir', 'two', '--cfg-options', HALF)
    process = tiny_run.start(
        'dist_train.sh', 'run.py', 2, *options, cwd=folder
    )
    output = tiny_run.finish(process)
    assert 'OMP_NUM_THREADS' not in output
    return [read(folder, rank, 2) for rank in range(2)]


def read(folder, rank, world_size):
    path = folder / f'rank{rank}of{world_size}.pt'
    return torch.load(path, weights_only=True)


def test_shards_together_are_the_order_of_one_process(one, two):
    for stream in STREAMS:
        order = one['draws'][stream]
        assert len(order) == tiny_run.EPOCHS * tiny_run.PAIRS
        # Names and pixels: the augmentation belongs to the draw as well.
        for rank in range(2):
            assert two[rank]['draws'][stream] == order[rank::2]


def test_both_processes_hold_the_same_model(two):
    first, second = (rank['state'] for rank in two)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    assert first['loss_cls.uniform.num_train_images'] == tiny_run.NUM_IMAGES
    # They did learn, and each branch its own.
    scales = [first[f'loss_cls.{name}.pos_scale'] for name in STREAMS]
    assert not torch.equal(*scales)
    assert all((scale != 1).any() for scale in scales)


def test_two_processes_train_the_model_of_one(one, two):
    found, expected = two[0]['state'], one['state']
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_metrics_agree(one, two):
    assert len(one['metrics']) == tiny_run.EPOCHS
    assert two[0]['metrics'] == two[1]['metrics']
    for found, expected in zip(two[0]['metrics'], one['metrics'], strict=True):
        assert 'multi-label/rebalanced/mAP' in expected
        assert found == pytest.approx(expected, abs=1e-3)


def test_the_evaluation_of_two_processes_is_that_of_one(folder, two, on_cpu):
    checkpoint = str(folder / 'two' / f'epoch_{tiny_run.EPOCHS}.pth')
    written = ('--out', 'two.json', '--work-dir', 'tested by two')
    args = ('run.py', checkpoint, 2, *written)
    process = tiny_run.start('dist_test.sh', *args, cwd=folder)
    written = ('--out', f'{folder}/one.json', '--work-dir', f'{folder}/tested')
    options = ('--cfg-options', 'experiment_name=test of one')
    test.main([f'{folder}/run.py', checkpoint, *written, *options])
    tiny_run.finish(process)
    expected, found = (
        json.loads((folder / name).read_text())
        for name in ('one.json', 'two.json')
    )
    assert found['metrics'] == expected['metrics']
    assert len(expected['predictions']) == tiny_run.NUM_IMAGES
    assert found == expected


def test_two_machines(folder):
    options = ('--work-dir', 'machines', '--no-validate', '--cfg-options')
    options += (HALF, 'train_cfg.max_epochs=1')
    options += ('model.backbone.norm_eval=False',)
    options += ('custom_hooks.0.out_dir=machines',)
    (folder / 'machines').mkdir()
    places = dict(cwd=folder, NNODES=2, PORT=tiny_run.free_port())
    machines = [
        tiny_run.start(
            'dist_train.sh', 'run.py', 1, *options, NODE_RANK=rank, **places
        )
        for rank in range(2)
    ]
    for machine in machines:
        tiny_run.finish(machine)
    ranks = [read(folder / 'machines', rank, 2) for rank in range(2)]
    for stream in STREAMS:
        draws = [rank['draws'][stream] for rank in ranks]
        assert [len(d) for d in draws] == [tiny_run.PAIRS // 2] * 2
        assert draws[0] != draws[1]
    for name, value in ranks[0]['state'].items():
        # BatchNorm's running statistics are each process's own, as in any
        # run of MMEngine; the checkpoint holds those of process 0.
        if 'running' not in name:
            assert torch.equal(value, ranks[1]['state'][name]), name


def launch(folder, sender, *options):
    """Trains with two processes; returns what they say and the status."""
    (folder / 'signalled.py').write_text(SIGNALLED.format(sender=sender))
    tests = os.path.dirname(os.path.dirname(__file__))
    options = ('--work-dir', 'work', '--no-validate', *options)
    process = tiny_run.start(
        'dist_train.sh', 'signalled.py', 2, *options, cwd=folder,
        PYTHONPATH=tests,
    )  # fmt: skip
    output, _ = process.communicate(timeout=180)
    return output, process.returncode


def newest(folder):
    """The newest checkpoint, and the others beside it."""
    found = find_whole_checkpoint(folder / 'work')
    names = sorted(path.name for path in (folder / 'work').glob('*.pth'))
    return os.path.basename(found), names


def test_a_signal_and_then_a_lost_process(folder):
    # An epoch has four steps. The first process signals the launcher, which
    # passes it on to both, one after the other.
    sender = "name='SIGTERM', to='parent', step=2"
    output, status = launch(folder, sender)
    assert status != 0
    assert output.count('SIGTERM: the training stops after step 2') == 1
    # No process fails: what is told is the launcher's own end.
    assert 'error: ' not in output
    assert 'ChildFailedError' not in output
    assert newest(folder) == ('iter_2.pth', ['iter_2.pth'])

    sender = "name='SIGKILL', to='self', step=6, rank=1"
    output, status = launch(folder, sender, '--resume')
    assert status != 0
    assert output.count('error: another process of this run is gone') == 1
    assert 'SIGKILL' in output
    assert newest(folder) == ('epoch_1.pth', ['epoch_1.pth'])
