"""Process groups: joins and leaves them, and explains a lost process."""

from __future__ import annotations

import gc
import os
import re
import subprocess

import torch
from mmengine.config import Config

#: Where a launcher says rank, number of processes and rank on the machine.
RANK_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': (
        'OMPI_COMM_WORLD_RANK',
        'OMPI_COMM_WORLD_SIZE',
        'OMPI_COMM_WORLD_LOCAL_RANK',
    ),
}
#: Where starters say how many processes there are. SLURM_NTASKS would not
#: do: a batch script has it, too, for the one process that it starts itself.
STARTED_PROCESSES = {
    'WORLD_SIZE': 'pytorch',
    'OMPI_COMM_WORLD_SIZE': 'mpi',
    'SLURM_STEP_NUM_TASKS': 'slurm',
    # Of mpirun in MPICH or Intel MPI, whose variables MMEngine does not read.
    'PMI_SIZE': 'pytorch',
}
STARTERS = {
    'pytorch': 'tools/dist_train.sh, tools/dist_test.sh or torchrun',
    'slurm': 'tools/slurm_train.sh, tools/slurm_test.sh or srun',
    'mpi': 'mpirun',
}


def init_distributed(cfg: Config, launcher: str) -> None:
    """Checks the devices, or joins the processes' group on CPUs.

    With GPUs MMEngine's Runner does the rest. Its ``init_dist`` needs a GPU
    for each process; on machines without one the group is made here, with
    gloo, and the config's ``model_wrapper_cfg`` is completed in place.

    Raises:
        ValueError: The process was not started by the launcher, or by one
            that is not named, or the machine has fewer GPUs than processes.
        torch.distributed.DistNetworkError: The port is in use.
    """
    if launcher == 'none':
        # Each would be a whole run, all of them in one folder.
        for name, starter in STARTED_PROCESSES.items():
            processes = os.environ.get(name) or '1'
            if processes != '1':
                raise ValueError(
                    f'{name}={processes}: this is one process of several; '
                    f'add --launcher {starter}'
                )
        return
    sources = RANK_VARIABLES[launcher]
    missing = [name for name in sources if name not in os.environ]
    if missing:
        raise ValueError(
            f'--launcher {launcher} needs {", ".join(missing)} in the '
            f'environment; start it with {STARTERS[launcher]}'
        )
    # Under the names that torch reads; of mpi MMEngine leaves one out.
    for name, source in zip(RANK_VARIABLES['pytorch'], sources, strict=True):
        os.environ[name] = os.environ[source]
    if torch.cuda.is_available():
        least = int(os.environ['LOCAL_RANK']) + 1
        wanted = int(os.environ.get('LOCAL_WORLD_SIZE', least))
        if wanted > (found := torch.cuda.device_count()):
            raise ValueError(
                f'{wanted} processes on this machine need {wanted} GPUs, but '
                f'it has {found}'
            )
        return
    if not torch.distributed.is_initialized():
        os.environ.setdefault('MASTER_PORT', '29500')
        if 'MASTER_ADDR' not in os.environ:
            nodes = os.environ.get('SLURM_JOB_NODELIST')
            if launcher != 'slurm' or nodes is None:
                raise ValueError(
                    'set MASTER_ADDR to the address of the machine with '
                    'process 0'
                )
            command = ['scontrol', 'show', 'hostnames', nodes]
            machines = subprocess.check_output(command, text=True).split()
            os.environ['MASTER_ADDR'] = machines[0]
        torch.distributed.init_process_group('gloo')
    # As MMEngine wraps on GPUs, but for the device.
    cfg.model_wrapper_cfg = {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
        **(cfg.get('model_wrapper_cfg') or {}),
        'device_ids': None,
    }


def destroy_distributed() -> None:
    """Leaves the process group together, at a tool's orderly end.

    A process that exits while another still talks to it, for instance while
    the first one writes its results, is aborted by its communication threads.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        # The Runner's cycles still hold the group, whose threads would
        # otherwise run on until they are torn down with the interpreter.
        gc.collect()


def explain_lost_process(error: Exception) -> str | None:
    """Describes an error that came of another process's end, else None.

    Looks at all causes: torch tells of a lost worker in the midst of anything.
    """
    cause: BaseException | None = error
    while cause is not None:
        # Less the place in gloo's sources.
        words = re.sub(r'^\[/\S+\] ', '', str(cause)).split('\n')[0]
        words = words.strip().rstrip('.')
        if words.startswith('DataLoader worker (pid'):
            return (
                f'{words}. Most often the memory did not suffice: take fewer '
                'workers (num_workers) or smaller batches, and let a training '
                'go on with --resume'
            )
        if '/gloo/' in str(cause) and 'onnection' in words:
            return (
                f'another process of this run is gone ({words}). The others '
                'say why; let a training go on with --resume'
            )
        cause = cause.__cause__ or cause.__context__
    return None
