"""What every command-line tool does before the Runner."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config, DictAction

from ltml_mm.apis.checkpoint import CheckpointError

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that training and testing share."""
    parser.add_argument('--work-dir', help='where logs and models go')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='overrides of the config: key.subkey=value, lists as '
        '"[a,b]" or a,b',
    )
    parser.add_argument(
        '--launcher', choices=LAUNCHERS, default='none', help='job launcher'
    )
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0)


def forbid_unsafe_loading() -> None:
    """Makes every ``torch.load`` of this process refuse foreign classes.

    It covers weights that MMEngine downloads, and closes the fallback to an
    unsafe load that the OneDL builds have.
    """
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'


def run_tool(main: Callable[[], None]) -> None:
    """Runs a tool and turns expected errors into one line.

    Args:
        main: The tool.

    Raises:
        SystemExit: With status 1 and the message, where a file is missing or
            something in the config or the data is wrong.
    """
    forbid_unsafe_loading()
    try:
        main()
    except (CheckpointError, OSError, ValueError) as error:
        if os.environ.get('LTML_TRACEBACK'):
            raise
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)


def prepare_config(cfg: Config, args: argparse.Namespace) -> None:
    """Applies the shared arguments to a config, in place.

    Args:
        cfg: The config.
        args: Parsed arguments, those of :func:`add_common_arguments` and
            ``config``.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    if args.launcher != 'none':
        _prepare_processes(cfg)
    if not torch.cuda.is_available():
        _forget_pinned_memory(cfg)


def _prepare_processes(cfg: Config) -> None:
    """Checks the devices, or lets processes meet on CPUs.

    MMEngine's ``init_dist`` needs a GPU for each process; on machines
    without one the group is made here, with gloo.
    """
    if torch.cuda.is_available():
        wanted = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        found = torch.cuda.device_count()
        if wanted > found:
            raise ValueError(
                f'{wanted} processes on this machine need {wanted} GPUs, but '
                f'it has {found}'
            )
        return
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None
    )


def _forget_pinned_memory(cfg: Config) -> None:
    """Pinned memory needs a GPU; without one it only prints a warning."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name) is not None:
            cfg[name].pin_memory = False
