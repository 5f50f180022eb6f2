"""A run that is killed again and again ends as one that never was."""

import random
import re
import time

import dying_training
import forked
import pytest
import torch
from tiny_training import make_config

from ltml_mm.apis.checkpoint import find_whole_checkpoint, read_checkpoint

LAST = 'iter_9.pth'
# In this order: before anything is there, half a file, a whole file that the
# pointer does not name yet, a best one, an old file whose checksum is gone.
SHORT = [
    *('write iter_1.pth', 'write iter_2.pth', 'rename last_checkpoint'),
    *('rename best_multi-label_mAP_iter_3.pth', 'remove iter_4.pth'),
]


class Killed:
    """A run that is killed and resumed, and what it must keep to."""

    def __init__(self, data, work_dir):
        config = make_config(data, work_dir, steps=1)
        config.default_hooks.checkpoint.update(
            max_keep_ckpts=2, save_best='multi-label/mAP'
        )
        self.work_dir = work_dir
        self.file = work_dir.with_suffix('.py')
        work_dir.parent.mkdir(exist_ok=True)
        config.dump(self.file)
        self.progress = 0

    def go_on(self, **fate):
        """Starts or resumes it; returns whether it was killed."""
        process = forked.start(
            dying_training.train,
            self.file,
            ['--resume'],
            *(fate.get(name) for name in ('moment', 'delay', 'record')),
        )
        (status,) = forked.finish(process)
        assert status in (0, -9)
        self.check_checkpoints()
        return status == -9

    def check_checkpoints(self):
        """The newest whole checkpoint is never older than before."""
        path = find_whole_checkpoint(self.work_dir)
        if path is None:
            assert self.progress == 0
            return
        # What is there is whole: nothing had to be passed over.
        pointer = self.work_dir / 'last_checkpoint'
        if pointer.is_file():
            assert pointer.read_text() == path
        step = int(re.search(r'(\d+)\.pth$', path)[1])
        assert step >= self.progress
        self.progress = step


@pytest.fixture(scope='module')
def reference(data, tmp_path_factory):
    """A run without faults: itself, its duration, its steps of writing."""
    run = Killed(data, tmp_path_factory.mktemp('reference') / 'work')
    record = run.file.with_suffix('.txt')
    start = time.monotonic()
    assert not run.go_on(record=record)
    return run, time.monotonic() - start, record.read_text().splitlines()


def assert_unharmed(run, reference):
    expected, found = (
        read_checkpoint(one.work_dir / LAST)['state_dict']
        for one in (reference, run)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    # No temporary file is left, nor an old checkpoint.
    names = [
        {path.name for path in folder.glob('*') if path.is_file()}
        for folder in (reference.work_dir, run.work_dir)
    ]
    assert names[0] == names[1]


def test_kills_while_a_checkpoint_is_written(data, tmp_path, reference):
    expected, _, steps = reference
    run = Killed(data, tmp_path / 'work')
    for moment in SHORT:
        assert moment in steps
        assert run.go_on(moment=moment), moment
    assert not run.go_on()
    assert_unharmed(run, expected)


def test_kill_at_a_random_moment(data, tmp_path, reference):
    expected, duration, _ = reference
    run = Killed(data, tmp_path / 'work')
    run.go_on(delay=random.uniform(0.3, 0.9) * duration)
    assert not run.go_on()
    assert_unharmed(run, expected)


@pytest.mark.long
def test_fifty_kills(data, tmp_path, reference):
    expected, duration, steps = reference
    rng = random.Random(0)
    kills = runs = 0
    while kills < 50:
        run = Killed(data, tmp_path / str(runs) / 'work')
        runs += 1
        finished = False
        while not finished and kills < 50:
            # One in two inside the writing of the checkpoints to come.
            ahead = [
                step
                for step in steps
                if (found := re.search(r'iter_(\d+)', step)) is None
                or int(found[1]) > run.progress
            ]
            fate = {'moment': rng.choice(ahead)}
            if kills % 2:
                fate = {'delay': rng.uniform(0, duration)}
            killed = run.go_on(**fate)
            kills += killed
            finished = not killed
        if not finished:
            assert not run.go_on()
        assert_unharmed(run, expected)
    print(f'{kills} kills in {runs} runs')
