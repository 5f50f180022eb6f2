"""What the screen of a run shows, on a terminal and elsewhere."""

import io
import logging
import re
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from tiny_training import write_small

from ltml_mm.apis import screen as module
from ltml_mm.apis import test as testing
from ltml_mm.apis import train
from ltml_mm.apis.screen import ProgressHook, Screen
from ltml_mm.engine.hooks.late_values import LateHistory


@pytest.fixture(scope='module')
def trained(tmp_path_factory, data):
    """A training as the tool makes it, and what it showed."""
    folder = tmp_path_factory.mktemp('screen')
    config = write_small(folder)
    shown, kept = io.StringIO(), sys.stdout
    sys.stdout = shown
    try:
        work, checkpoint = folder / 'work', folder / 'work' / 'epoch_1.pth'
        info = ('--cfg-options', 'log_level=INFO')
        train.main([f'{config}', f'--work-dir={work}', *info])
        words = (f'{config}', f'{checkpoint}', f'--work-dir={folder / "test"}')
        testing.main(words)
    finally:
        sys.stdout = kept
    return folder, shown.getvalue()


def test_what_a_training_consists_of(trained):
    _, shown = trained
    assert re.match(
        r'Data:   \d+ images to train, \d+ to validate; 3 classes: \d head, '
        r'\d medium, \d tail \(of \d+ to \d+ images\)\n'
        r'Model:  CollaborativeTwoBranchClassifier with ResNet, \S+ M '
        r'parameters, on CPU\n'
        r'Run:    1 epoch of \d+ steps: \d+ steps of \d+ pairs of images, '
        r'learning rate \S+, seed \d+\n'
        r'Files:  ',
        shown,
    ), shown
    assert re.search(r'^epoch 1/1: loss ', shown, re.M)
    assert re.search(r'^    mAP \d', shown, re.M)
    assert 'images to test' in shown


def test_the_table_is_shown_and_the_rest_is_in_the_log(trained):
    folder, shown = trained
    assert shown.count('Average precision in percent') == 2
    [log] = (folder / 'work').glob('*/*.log')
    for noise in ('before_train_iter', 'System environment', 'mmengine'):
        assert noise not in shown
    assert 'before_train_iter' in log.read_text()
    assert 'Average precision in percent' in log.read_text()
    assert f'Log:    {log}' in shown


def test_no_redrawn_bars_and_few_lines_without_a_terminal(trained):
    _, shown = trained
    assert '\r' not in shown
    assert '\x1b' not in shown
    assert shown[: shown.index('epoch 1/1')].count('\n') <= 6


def test_verbose_shows_the_whole_log(tmp_path, capsys):
    config = write_small(tmp_path)
    words = (f'--work-dir={tmp_path / "w"}', '--verbose', '--cfg-options')
    train.main([str(config), *words, 'log_level=INFO'])
    shown = capsys.readouterr().out
    assert 'before_train_iter' in shown
    assert 'Files:' not in shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_one_status_line(monkeypatch):
    stream = Terminal()
    clock = iter(range(10, 99))
    monkeypatch.setattr(module.time, 'monotonic', lambda: next(clock))
    screen = Screen(stream)
    screen.status(lambda: 'one')
    screen.status(lambda: 'two')
    screen.line('a line')
    screen.close_status()
    assert stream.getvalue() == ('one\r\x1b[Ktwo\r\x1b[Ka line\ntwo\r\x1b[K')


def test_elsewhere_a_line_comes_after_a_silence_alone(monkeypatch):
    stream, now, asked = io.StringIO(), [0.0], []
    monkeypatch.setattr(module.time, 'monotonic', lambda: now[0])
    screen = Screen(stream)
    for second in range(100):
        now[0] = float(second)
        screen.status(lambda: f'at {asked.append(1) or int(now[0])}')
    times = [int(n) for n in re.findall(r'at (\d+)\n', stream.getvalue())]
    assert times == list(range(9, 100, 9))
    assert len(asked) == len(times)  # Nothing is formatted in vain.


def test_a_long_step_is_told_of_while_it_lasts(monkeypatch):
    """The status does not wait for the end of a step."""
    seen = threading.Event()

    class Watched(Screen):
        def status(self, describe):
            seen.set()

    hook = ProgressHook(Watched(io.StringIO()))
    hook._start(lambda: 'still at step 1')
    assert seen.wait(30)
    hook.end()
    seen.clear()
    time.sleep(1.5)
    assert not seen.is_set()


def test_what_others_print_stays():
    stream = io.StringIO()
    screen = Screen(stream)
    print('of a hook of mine', file=screen)
    print('Loads checkpoint by local backend from path: x', file=screen)
    assert stream.getvalue() == 'of a hook of mine\n'


def test_a_logger_may_keep_a_screen_of_a_closed_stream():
    stream = io.StringIO()
    handler = logging.StreamHandler(Screen(stream))
    stream.close()
    handler.setStream(io.StringIO())  # Flushes the one before.


def test_the_status_reads_nothing_of_a_gpu():
    loss = LateHistory([1.0], [1])
    loss.late.append(torch.tensor(3.0))
    hub = SimpleNamespace(log_scalars={'train/loss': loss})
    runner = SimpleNamespace(message_hub=hub)
    assert module._loss(runner) == 'loss 1, '
    assert len(loss.late) == 1
    # At the end of an epoch.
    assert module._loss(runner, now=True) == 'loss 2, '
    hub.log_scalars = {}
    assert module._loss(runner) == ''
