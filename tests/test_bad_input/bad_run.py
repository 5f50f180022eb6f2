"""Runs a tool on a tiny set as its script does, and keeps what it says."""

import io
import re
from contextlib import redirect_stderr

from tiny_training import CLASSES, STOCK, extend, write_small

from ltml_mm.apis import predict, test, train
from ltml_mm.apis.cli import run_tool

ONE_STREAM = """
train_dataloader = dict(sampler=dict(streams=dict(
    _delete_=True, uniform=dict(type='UniformSampler'))))
"""


def write_case(folder, labels=None, plain=False, classes=CLASSES):
    """Writes pictures, annotations and a config; returns the config."""
    config = write_small(folder, labels, classes)
    return extend(config, STOCK + ONE_STREAM) if plain else config


def run_main(main, *args):
    """Runs a tool; returns its exit status and what it wrote to stderr."""
    shown = io.StringIO()
    try:
        with redirect_stderr(shown):
            run_tool(lambda: main(list(map(str, args))))
    except SystemExit as error:
        return error.code, shown.getvalue()
    return 0, shown.getvalue()


def training(config, *options, flags=()):
    """Trains with ``--cfg-options``."""
    more = ['--cfg-options', *options] if options else []
    return run_main(train.main, config, *flags, *more)


def resumption(config, checkpoint, *options):
    """Resumes from a checkpoint with ``--cfg-options``."""
    return training(config, *options, flags=('--resume', checkpoint))


def evaluation(config, checkpoint, *flags):
    """Evaluates a checkpoint."""
    return run_main(test.main, config, checkpoint, *flags)


def prediction(config, checkpoint, *args):
    """Predicts."""
    return run_main(predict.main, config, checkpoint, *args, '--device', 'cpu')


def assert_refused(outcome, *patterns):
    """One line that says all of this, status 1."""
    status, shown = outcome
    lines = [line for line in shown.splitlines() if line.startswith('error:')]
    assert status == 1, shown
    assert len(lines) == 1, shown
    assert shown.endswith(f'{lines[0]}\n'), shown
    for pattern in patterns:
        assert re.search(pattern, lines[0]), lines[0]


def assert_nothing_half_written(folder):
    """A refused run leaves its log alone: no checkpoint, no part of one."""
    left = {path.suffix for path in folder.rglob('*') if path.is_file()}
    assert not left & {'.pth', '.tmp', '.sha256'}, left
