"""Runs trainings in processes of their own that start quickly.

A server process imports the packages once; every training is a fork of it.
"""

import multiprocessing
import os
import socket
import sys
import time

from hasten import hasten

CONTEXT = multiprocessing.get_context('forkserver')
# What is installed: the server looks nowhere else.
INSTALLED = ['ltml_mm.apis.train', 'matplotlib.pyplot', 'mmpretrain.apis']
CONTEXT.set_forkserver_preload([*INSTALLED, 'mmpretrain.engine', 'pytest'])


def start(target, *args):
    """Starts target(*args) in a process of its own."""
    process = CONTEXT.Process(target=target, args=args)
    process.start()
    return process


def finish(*processes, timeout=600):
    """Waits for processes; returns their exit codes.

    Raises:
        TimeoutError: One of them hangs; all of them are killed.
    """
    end = time.monotonic() + timeout
    for process in processes:
        process.join(max(0, end - time.monotonic()))
    hanging = [i for i, p in enumerate(processes) if p.exitcode is None]
    if hanging:
        for process in processes:
            process.kill()
        raise TimeoutError(f'no end of process {hanging} in {timeout} s')
    return [process.exitcode for process in processes]


def train(config_file, options=(), environ=None, stderr=None):
    """What a process does: the main function of tools/train.py.

    What it prints as errors goes to the file stderr: the server's own went
    wherever it was when the server started.
    """
    os.environ.update(environ or {})
    if stderr is not None:
        sys.stderr = open(stderr, 'w')  # noqa: SIM115
    # Its own group, so that its workers can be ended with it.
    os.setpgid(0, 0)
    import pytest
    import torch

    hasten(pytest.MonkeyPatch())  # The process keeps them to its end.
    torch.set_num_threads(1)
    from ltml_mm.apis.cli import run_tool
    from ltml_mm.apis.train import main

    run_tool(lambda: main([str(config_file), *options]))


def rank_environments(world_size=2):
    """What torchrun tells each process of a group on this machine."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    shared = {
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(port),
        'WORLD_SIZE': str(world_size),
    }
    ranks = map(str, range(world_size))
    return [{**shared, 'RANK': rank, 'LOCAL_RANK': rank} for rank in ranks]


def train_ranks(config_file, options=(), world_size=2):
    """Trains with several processes, as torchrun would start them.

    Returns:
        list[int]: Their exit codes.
    """
    options = [*options, '--launcher', 'pytorch']
    processes = [
        start(train, config_file, options, environ)
        for environ in rank_environments(world_size)
    ]
    return finish(*processes)
