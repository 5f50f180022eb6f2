"""A step reads no value of a GPU; the log is MMEngine's."""

import math

import numpy as np
import pytest
import torch
from engine_runner import Model, make_runner
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from tiny_training import read_scalars
from torch.utils._python_dispatch import TorchDispatchMode

from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.engine.hooks import late_values

LATE = 'LateRuntimeInfoHook'


class Reads(TorchDispatchMode, Hook):
    """Counts the values that the host reads within each step."""

    # Ends behind RuntimeInfoHook, and ahead of a log.
    priority = 'VERY_HIGH'

    counts = ()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__
        self.counts[-1] += name.startswith('_local_scalar_dense')
        return function(*args, **(kwargs or {}))

    def before_train_iter(self, runner, *args, **kwargs):
        self.counts = [*self.counts, 0]
        self.__enter__()

    def after_train_iter(self, runner, *args, **kwargs):
        self.__exit__(None, None, None)


def train(folder, kind, fused=True, **options):
    """Trains six steps, in the second epoch with larger losses."""
    torch.manual_seed(0)
    reads = Reads()
    sgd = dict(type='SGD', lr=0.1, momentum=0.9, fused=fused)
    wrapper = dict(type='GuardedOptimWrapper', optimizer=sgd)
    runner = make_runner(
        folder,
        Model(),
        hooks=['ClassStatisticsHook'],
        default_hooks=dict(
            runtime_info=dict(type=kind),
            checkpoint=dict(type='SafeCheckpointHook', interval=1),
            logger=dict(type='LoggerHook', interval=2),
        ),
        optim_wrapper=dict(wrapper, clip_grad=dict(max_norm=0.2)),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        **options,
    )
    runner.register_hook(reads)
    runner.train()
    return runner, reads


def history(runner, key):
    return runner.message_hub.get_scalar(f'train/{key}').data


@pytest.mark.parametrize('latest', [-1.0, math.inf])
def test_the_log_is_that_of_mmengine(tmp_path, monkeypatch, latest):
    monkeypatch.setattr(late_values, 'MAX_AGE', latest)
    runs = [train(tmp_path / k, k)[0] for k in (LATE, 'RuntimeInfoHook')]
    logs = []
    for runner in runs:
        saved = read_checkpoint(tmp_path / runner.work_dir / 'epoch_2.pth')
        kept = saved['message_hub']['log_scalars']['train/loss']
        assert type(kept) is HistoryBuffer
        assert len(kept.data[0]) == 4
        logs.append(read_scalars(tmp_path / runner.work_dir))
    assert logs[0] == logs[1] != {}
    for key in ('loss', 'grad_norm', 'lr'):
        own, stock = (history(runner, key) for runner in runs)
        np.testing.assert_array_equal(own, stock)
    # A resumed run goes on with what was read.
    again, _ = train(
        tmp_path / 'again', LATE,
        load_from=str(tmp_path / LATE / 'epoch_2.pth'), resume=True,
    )  # fmt: skip
    np.testing.assert_array_equal(
        history(again, 'loss'), history(runs[0], 'loss')
    )


@pytest.mark.parametrize('fused', [False, True])
def test_a_step_reads_nothing(tmp_path, monkeypatch, fused):
    monkeypatch.setattr(late_values, 'MAX_AGE', math.inf)
    read, seen = late_values.StepCheck.read, []

    def note(check):
        hub = MessageHub.get_current_instance()
        seen.append((check.step, hub.get_info('iter')))
        return read(check)

    monkeypatch.setattr(late_values.StepCheck, 'read', note)
    _, reads = train(tmp_path / 'own', LATE, fused)
    # Of the first values MMEngine's message hub makes histories.
    assert reads.counts == [2, 0, 0, 0, 0, 0]
    # Fused, the check is read when the next step is due, or saved.
    due = [1, 1, 3, 3, 5, 5] if fused else range(6)
    assert seen == [*zip(range(1, 7), due, strict=True)]
    _, reads = train(tmp_path / 'stock', 'RuntimeInfoHook', fused)
    assert min(reads.counts) >= 1


def test_a_value_waits_for_a_second(monkeypatch):
    hub = MessageHub.get_instance('late')
    clock = [0.0]
    monkeypatch.setattr(late_values.time, 'monotonic', lambda: clock[0])
    known, value = [], torch.zeros(1)
    for number in range(5):
        clock[0] += 0.4
        late_values.log_late(hub, 'x', value.fill_(number))  # In its place.
        known.append(hub.get_scalar('x').known.tolist())
    assert known == [[0], [0], [0], [0, 1, 2], [0, 1, 2]]
    late_values.log_late(hub, 'x', 7)  # a number
    assert hub.get_scalar('x').mean(2) == (4 + 7) / 2
    assert hub.get_scalar('x').known.tolist() == [0, 1, 2, 3, 4, 7]
