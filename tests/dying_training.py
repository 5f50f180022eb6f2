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
    open_path, fsync, replace = Path.open, os.fsync, os.replace
    remove, unlink = os.remove, os.unlink
    open_files = {}

    def concerns_checkpoint(name):
        return '.pth' in name or 'last_checkpoint' in name

    def step(kind, path):
        name = Path(path).name
        if concerns_checkpoint(name) and dies_at(f'{kind} {name}'):
            die()

    class Half:
        """A file that is only half written where the process dies."""

        def __init__(self, file, name):
            self.file, self.name = file, name
            open_files[file.fileno()] = name

        def __enter__(self):
            return self

        def __exit__(self, *args):
            open_files.pop(self.file.fileno())
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            if dies_at(f'write {self.name}'):
                self.file.write(content[: len(content) // 2])
                self.file.flush()
                die()
            return self.file.write(content)

    def watched_open(path, mode='r', *args, **options):
        file = open_path(path, mode, *args, **options)
        if 'w' not in mode or not concerns_checkpoint(path.name):
            return file
        # Temporary names are ".iter_3.pth.77.tmp".
        return Half(file, path.name[1:].rsplit('.', 2)[0])

    def watched_fsync(descriptor):
        step('flush', open_files.get(descriptor, 'folder'))
        fsync(descriptor)

    def watched_replace(source, target):
        step('rename', target)
        replace(source, target)

    def watched_remove(path, *args, **options):
        step('remove', path)
        remove(path, *args, **options)

    def watched_unlink(path, *args, **options):
        if os.path.exists(path):
            step('remove', path)
        unlink(path, *args, **options)

    Path.open = watched_open
    os.fsync, os.replace = watched_fsync, watched_replace
    os.remove, os.unlink = watched_remove, watched_unlink
