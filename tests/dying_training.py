"""A training that is killed at a chosen moment, for the tests of faults."""

import os
import signal
import threading
from pathlib import Path

import forked


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def train(config_file, options=(), moment=None, delay=None, record=None):
    """Trains as tools/train.py does, and dies on the way.

    Args:
        config_file: The config.
        options: Further arguments of tools/train.py.
        moment: Dies right before this step of writing a file, half-way for
            a 'write'; see watch_files.
        delay: Dies after so many seconds.
        record: A file that receives the steps of writing, in order.
    """

    def note(step):
        if record is not None:
            with open(record, 'a') as file:
                file.write(f'{step}\n')
        return step == moment

    watch_files(note)
    if delay is not None:
        threading.Timer(delay, die).start()
    forked.train(config_file, options)


def watch_files(dies_at):
    """Calls dies_at('rename iter_3.pth') before each step with such files.

    The steps are write, flush, rename and remove; they end the process
    where dies_at says so.
    """
    fsync, replace = os.fsync, os.replace
    remove, unlink = os.remove, os.unlink

    def step(kind, path, prepare=lambda: None):
        name = Path(path).name
        if name.endswith('.tmp'):
            # Temporary names are ".iter_3.pth.77.tmp".
            name = name[1:].rsplit('.', 2)[0]
        concerned = '.pth' in name or 'last_checkpoint' in name
        if concerned and dies_at(f'{kind} {name}'):
            prepare()
            die()

    def watched_fsync(descriptor):
        path = os.readlink(f'/proc/self/fd/{descriptor}')
        half = os.fstat(descriptor).st_size // 2
        step('write', path, lambda: os.ftruncate(descriptor, half))
        step('flush', path)
        fsync(descriptor)

    def watched_replace(source, target):
        step('rename', target)
        replace(source, target)

    def watched_remove(path, *args, **options):
        step('remove', path)
        remove(path, *args, **options)

    def watched_unlink(path, *args, **options):
        if os.path.exists(path) and not str(path).endswith('.tmp'):
            step('remove', path)
        unlink(path, *args, **options)

    os.fsync, os.replace = watched_fsync, watched_replace
    os.remove, os.unlink = watched_remove, watched_unlink
