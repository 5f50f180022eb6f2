"""What every tool does: errors in one line, the config of a run."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from mmengine.config import Config

from ltml_cli.options import output_folder
from ltml_cli.tools import fail
from ltml_mm.apis.checkpoint import CheckpointError
from ltml_mm.apis.distributed import (
    destroy_distributed,
    explain_lost_process,
    init_distributed,
)
from ltml_mm.engine import TrainingStopped

#: What ``Runner.register_default_hooks`` adds by itself.
STOCK_HOOKS = (
    'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler',
    'checkpoint',
)  # fmt: skip


def run_tool(main: Callable[[], None]) -> None:
    """Runs a tool and turns expected errors into one line and status 1.

    Those are of files, data and the config, and of lost processes.
    """
    # Covers weights that MMEngine downloads, and closes the fallback to an
    # unsafe load that the OneDL builds have.
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    try:
        main()
        destroy_distributed()
    except TrainingStopped as stop:
        # Its frames hold the Runner, and that the group of processes.
        traceback.clear_frames(stop.__traceback__)
        if stop.together:
            destroy_distributed()
        raise
    except KeyboardInterrupt:
        # One that a training or a comparison does not answer by itself.
        print('stopped by Ctrl-C', file=sys.stderr)
        sys.exit(130)
    except (CheckpointError, OSError, ValueError) as error:
        # Of an error in a data worker torch makes a text with its stack; the
        # last line is what the error said.
        worker = r'(?s)Caught \w+ in DataLoader worker.*\n\S+: '
        text = re.sub(worker, '', str(error)).rstrip()
        if text.endswith('meta information of the first dataset'):
            text += (
                ': a ConcatDataset takes sets with the same classes in the '
                'same order, which custom.py --classes FILE gives them'
            )
        _fail(text, error)
    except torch.distributed.DistError as error:
        # The further lines are a stack of C++.
        _fail(str(error).split('\n')[0], error)
    except Exception as error:
        words = _explain_config_error(error) or explain_lost_process(error)
        if words is None:
            raise
        _fail(words, error)


def _explain_config_error(error: Exception) -> str | None:
    """Names what MMEngine was building from the config, and what it said.

    None where the error came from elsewhere.
    """
    words = ' '.join(str(error.args[0] if error.args else '').split())
    # How the Runner begins where a whole section is missing.
    if isinstance(error, RuntimeError) and words.startswith('`self._'):
        return f'the config is not complete: {words}'
    kinds = (AssertionError, AttributeError, KeyError, TypeError)
    if not isinstance(error, (*kinds, NotImplementedError)):
        return None
    stack = traceback.walk_tb(error.__traceback__)
    built = [name for frame, _ in stack if (name := _built_in(frame))]
    if not built:
        return None
    if 'registry. Please check' in words:
        words = words.split('. Please check')[0] + (
            '; it is misspelt, or custom_imports lacks the module that '
            'registers it'
        )
    elif isinstance(error, KeyError) and words.isidentifier():
        words = f'it has no {words!r}'
    else:
        words = words or type(error).__name__
        words += ' (LTML_TRACEBACK=1 shows where)'
    name = getattr(built[-1], '__name__', built[-1])
    return f'the config does not fit {name}: {words}'


def _built_in(frame: FrameType) -> Any:
    """Names what one of MMEngine's functions builds, None for any other."""
    module = frame.f_globals.get('__name__', '')
    function = frame.f_code.co_name
    if module == 'mmengine.registry.build_functions':
        cfg = frame.f_locals.get('cfg')
        return cfg.get('type') if isinstance(cfg, Mapping) else None
    if module == 'mmengine.optim.optimizer.default_constructor':
        return frame.f_locals['self'].optimizer_cfg.get('type')
    if module == 'mmengine.runner.runner':
        if function == 'from_cfg':
            return 'the Runner'
        if function.startswith('build_'):
            return function[len('build_') :].replace('_loop', '_cfg')
    return None


def _fail(message: str, error: Exception) -> NoReturn:
    """Ends as :func:`ltml_cli.tools.fail` does, and the data workers, too."""
    if not os.environ.get('LTML_TRACEBACK'):
        # At Python's end torch waits 5 seconds for each, if memory is pinned.
        for child in multiprocessing.active_children():
            if child.daemon:
                child.terminate()
    fail(message, error)


def prepare_config(cfg: Config, args: argparse.Namespace) -> None:
    """Applies the shared arguments to a config, in place."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    try:
        output_folder(cfg.work_dir)
    except argparse.ArgumentTypeError as error:
        raise OSError(
            f'the work directory {error}. Choose another one with --work-dir'
        ) from error
    init_distributed(cfg, args.launcher)
    if not torch.cuda.is_available():  # it would print a warning an epoch
        for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if cfg.get(name) is not None:
                cfg[name].pin_memory = False
    # MMEngine removes only its own six where they are None.
    for name, hook in list((cfg.get('default_hooks') or {}).items()):
        if hook is None and name not in STOCK_HOOKS:
            del cfg.default_hooks[name]
