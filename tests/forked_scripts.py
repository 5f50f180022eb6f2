"""What subprocess starts in Python, as forks of this process.

Each would import torch and MMPretrain anew, which takes seconds; here the
imports below have done so.
"""

import atexit
import os
import runpy
import signal
import subprocess
import sys
import traceback
from multiprocessing import resource_tracker, util
from pathlib import Path

import cv2  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import mmpretrain.apis
import mmpretrain.engine  # noqa: F401
import pytest
import torch.utils.data  # noqa: F401
from hasten import hasten
from mmengine.logging import MMLogger

import ltml_mm.apis.train  # noqa: F401


class ForkedPopen(subprocess.Popen):
    """A ``subprocess.Popen`` whose Python programs find all imported."""

    def __init__(self, args, *, env=None, preexec_fn=None, **options):
        if str(args[0]) == sys.executable:
            program = [str(arg) for arg in args[1:]]
            before = preexec_fn

            def preexec_fn():
                if before:
                    before()
                run_here(program, env)

        super().__init__(args, env=env, preexec_fn=preexec_fn, **options)


def run_here(program, env):
    """Runs ``FILE``, ``-m MODULE`` or ``-c CODE`` in a fork, and ends it."""
    # As exec does; Popen returns once its own pipe is closed.
    os.closerange(3, os.sysconf('SC_OPEN_MAX'))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit._clear()  # Those of the process that was forked.
    # Ends data workers, which else ask every five seconds for their parent.
    atexit.register(util._exit_function)
    # Loggers and the tracker write to files that are closed now.
    MMLogger._instance_dict.clear()
    tracker = resource_tracker._resource_tracker
    tracker._fd = tracker._pid = None
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    sys.stdout, sys.stderr = (
        open(fd, 'w', 1, closefd=False)  # noqa: SIM115
        for fd in (1, 2)
    )
    hasten(pytest.MonkeyPatch())  # The process keeps them to its end.
    kind, *rest = program
    sys.argv = rest if kind in ('-c', '-m') else program
    paths = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    sys.path[:0] = [str(Path(kind).parent), *paths]
    status = 0
    try:
        if kind == '-c':
            sys.argv[0], code = kind, rest[0]
            exec(code, {'__name__': '__main__'})
        elif kind == '-m':
            runpy.run_module(rest[0], run_name='__main__', alter_sys=True)
        else:
            runpy.run_path(kind, run_name='__main__')
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else bool(end.code)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)
