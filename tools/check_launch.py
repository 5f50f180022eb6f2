"""Checks, once and before torchrun, what would else fail in every process.

It needs the standard library alone, so that it answers at once; torch is
asked only where the driver counts too few GPUs.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import Sequence


def find_problem(
    processes: str,
    nodes: str,
    node_rank: str,
    port: str,
    files: Sequence[str] = (),
) -> str | None:
    """Looks for a reason why a launch cannot work.

    Args:
        processes: Processes on this machine.
        nodes: Number of machines.
        node_rank: Index of this machine; only machine 0 opens the port.
        port: The port at which the processes meet.
        files: Files that have to exist.

    Returns:
        str | None: One line that says what is wrong and what to do.
    """
    numbers = {
        'the number of processes': (processes, 1, None),
        'NNODES': (nodes, 1, None),
        'NODE_RANK': (node_rank, 0, None),
        'PORT': (port, 1, 65535),
    }
    for name, (value, low, high) in numbers.items():
        if not _is_number(value, low, high):
            span = f'{low} or more' if high is None else f'{low} to {high}'
            return f'{name} must be an integer, {span}; got {value!r}'
    if int(node_rank) >= int(nodes):
        return f'NODE_RANK={node_rank} must be less than NNODES={nodes}'
    for file in files:
        if not os.path.isfile(file):
            return f'file not found: {file}'
    return find_gpu_problem(int(processes)) or (
        find_port_problem(int(port)) if int(node_rank) == 0 else None
    )


def find_gpu_problem(processes: int) -> str | None:
    """Compares the processes with the GPUs; without any GPU, CPUs serve."""
    gpus = count_gpus()
    if not 0 < gpus < processes or not torch_uses_gpus():
        return None
    return (
        f'{processes} processes need {processes} GPUs, but {gpus} can be '
        f'used here; ask for at most {gpus}, or set CUDA_VISIBLE_DEVICES= to '
        'run on CPUs'
    )


def find_port_problem(port: int) -> str | None:
    """Opens the port as torchrun does, on all addresses, and closes it."""
    with socket.socket() as server:
        # Lets a port through that only waits for late packets.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(('', port))
            server.listen()
        except OSError as error:
            reason = os.strerror(error.errno).lower()
            return (
                f'port {port} cannot be used ({reason}); set PORT to a free '
                f'one, for example PORT={_free_port()}'
            )
    return None


def count_gpus() -> int:
    """Counts the GPUs that CUDA's driver shows to this process."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL('libcuda.so.1')
    except OSError:
        return 0
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def torch_uses_gpus() -> bool:
    """Whether the installed torch can use them: a CPU build cannot."""
    import torch

    return torch.cuda.is_available()


def _is_number(text: str, low: int, high: int | None) -> bool:
    if not (text.isascii() and text.isdigit()):
        return False
    return low <= int(text) and (high is None or int(text) <= high)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(('', 0))
        return server.getsockname()[1]


if __name__ == '__main__':
    processes, nodes, node_rank, port, *files = sys.argv[1:]
    problem = find_problem(processes, nodes, node_rank, port, files)
    if problem is not None:
        sys.exit(f'error: {problem}')
