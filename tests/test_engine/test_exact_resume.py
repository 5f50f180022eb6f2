"""A run that was stopped and resumed is the run that was not."""

import pytest
import torch
from forked import train_ranks
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny_training import make_config, read_scalars, write_data

from ltml_mm._stack import find_stack
from ltml_mm.apis.checkpoint import read_checkpoint

ONEDL = find_stack() == 'onedl'
onedl_only = pytest.mark.skipif(not ONEDL, reason='promised on OneDL only')


class Recorder(Hook):
    """Notes every step's images, as file names and as pixels."""

    def __init__(self):
        self.seen = {}
        self.indices = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        names = {
            stream: [sample.img_path for sample in samples]
            for stream, samples in data_batch['data_samples'].items()
        }
        sums = {k: v.double().sum() for k, v in data_batch['inputs'].items()}
        self.seen[runner.iter] = names, sums
        self.indices[runner.iter] = batch_idx


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'))


def train(config, checkpoint=None):
    if checkpoint is not None:
        config.resume, config.load_from = True, str(checkpoint)
    recorder = Recorder()
    runner = Runner.from_cfg(config)
    runner.register_hook(recorder)
    runner.train()
    return recorder


def without_times(content):
    if isinstance(content, dict):
        return {
            key: without_times(value)
            for key, value in content.items()
            if not str(key).endswith('time') and key not in ('cfg', 'eta')
        }
    return content


def assert_same(a, b, path=''):
    """Compares two checkpoints bit by bit."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f'{path}/{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f'{path}/{index}')
    elif torch.is_tensor(a):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def assert_same_runs(whole, resumed, last, step):
    """Compares weights, optimizer, random states, schedules and logs."""
    parts = ('state_dict', 'optimizer', 'param_schedulers', 'exact_resume')
    a, b = (read_checkpoint(path / last) for path in (whole, resumed))
    for part in parts:
        assert_same(a[part], b[part], part)
    names = a['message_hub']['log_scalars'].keys()
    assert names == b['message_hub']['log_scalars'].keys()
    for name in names:
        if not name.endswith('time'):
            left, right = (
                c['message_hub']['log_scalars'][name].data for c in (a, b)
            )
            assert [x.tolist() for x in left] == [x.tolist() for x in right]
    expected = read_scalars(whole)
    found = read_scalars(resumed)
    # Validation steps count epochs.
    assert found.items() <= expected.items()
    for key in expected.keys() - found.keys():
        assert expected[key]['step'] <= step, key


def check(data, tmp_path, stops, last, **options):
    whole = tmp_path / 'whole'
    recorder = train(make_config(data, whole, **options))
    for stop, step in stops.items():
        resumed = tmp_path / stop
        again = train(make_config(data, resumed, **options), whole / stop)
        assert again.seen == {
            k: v for k, v in recorder.seen.items() if k >= step
        }
        assert again.indices == {
            k: v for k, v in recorder.indices.items() if k >= step
        }
        assert_same_runs(whole, resumed, last, step)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    # The loop sleeps for two seconds whenever the data begins anew.
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda _: None)


@pytest.mark.parametrize('num_workers', [0, 4])
def test_after_any_epoch(data, tmp_path, num_workers):
    stops = {'epoch_1.pth': 3, 'epoch_2.pth': 6}
    if num_workers:
        del stops['epoch_2.pth']
    check(
        data,
        tmp_path,
        stops,
        'epoch_3.pth',
        num_workers=num_workers,
        steps=0,
    )


@onedl_only
@pytest.mark.parametrize('num_workers', [0, 4])
def test_inside_an_epoch(data, tmp_path, num_workers):
    stops = {'iter_2.pth': 2, 'iter_3.pth': 3, 'iter_7.pth': 7}
    if num_workers:
        stops = {'iter_4.pth': 4}
    check(
        data, tmp_path, stops, 'iter_9.pth', num_workers=num_workers, steps=1
    )


@onedl_only
@pytest.mark.parametrize('num_workers', [0, 4])
def test_training_by_iterations(data, tmp_path, num_workers):
    # Step 3 ends a pass, step 4 is validated.
    stops = {'iter_3.pth': 3, 'iter_4.pth': 4, 'iter_7.pth': 7}
    if num_workers:
        stops = {'iter_4.pth': 4}
    check(
        data,
        tmp_path,
        stops,
        'iter_8.pth',
        num_workers=num_workers,
        by_epoch=False,
        steps=1,
    )


@onedl_only
def test_two_processes(data, tmp_path):
    # The statistics of BatchNorm differ between the processes; those of
    # process 1 are compared through the part that the hook saves.
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    file = tmp_path / 'config.py'
    make_config(data, whole, steps=1).dump(file)
    options = ['--cfg-options', 'train_dataloader.batch_size=2']
    assert train_ranks(file, options) == [0, 0]
    make_config(data, resumed, steps=1).dump(file)
    options += ['--resume', str(whole / 'iter_4.pth')]
    assert train_ranks(file, options) == [0, 0]
    assert_same_runs(whole, resumed, 'iter_8.pth', 4)
    ranks = read_checkpoint(whole / 'iter_8.pth')['exact_resume']['ranks']
    assert len(ranks) == 2
    assert any('running_mean' in name for name in ranks[1]['buffers'])
