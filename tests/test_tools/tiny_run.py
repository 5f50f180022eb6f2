"""A data set and a config so small that a run takes a second."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tiny_training import LABELS, REPO, extend, write_small

TOOLS = REPO / 'tools'
NUM_IMAGES = 21  # an odd test set: two processes pad it
PAIRS, EPOCHS, BATCH = 16, 2, 8

CONFIG = f"""
custom_imports = dict(imports=['ltml_mm', 'rank_probe'])
custom_hooks = [dict(type='RankProbe', out_dir='{{folder}}')]
log_level = 'INFO'
model = dict(backbone=dict(norm_eval=True, avg_down=True))
default_hooks = dict(device=dict(memory_format='channels_last'))
train_dataloader = dict(
    batch_size={BATCH}, sampler=dict(epoch_length={PAIRS}))
# One by one: another batch may round an image's scores another way.
val_dataloader = dict(batch_size=1)
test_dataloader = dict(batch_size=1)
# Steps large enough that a difference between runs would show.
optim_wrapper = dict(optimizer=dict(lr=0.1))
train_cfg = dict(max_epochs={EPOCHS})
"""


def write_run(folder: Path) -> Path:
    """Writes pictures, annotations and the config; returns the config."""
    small = write_small(folder, [*LABELS, *LABELS, [0, 2]])
    return extend(small, CONFIG.format(folder=folder), 'run.py')


def free_port() -> str:
    """Returns a port that is free at this moment."""
    with socket.socket() as server:
        server.bind(('', 0))
        return str(server.getsockname()[1])


def environment(**variables: object) -> dict[str, str]:
    """The environment of a launch: this Python first, and no GPU."""
    unwanted = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_', 'SLURM_')
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(unwanted)
    }
    bins = (str(Path(sys.executable).parent), environ['PATH'])
    environ.update(
        PATH=os.pathsep.join(bins),
        CUDA_VISIBLE_DEVICES='',
        OMP_NUM_THREADS='1',
        PORT=free_port(),
    )
    environ.update({name: str(value) for name, value in variables.items()})
    # The packages may be found by a path of the environment alone.
    own = str(variables.get('PYTHONPATH', Path(__file__).parent))
    paths = (own, os.environ.get('PYTHONPATH', ''))
    environ['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
    return environ


def start(
    script: str, *args: object, cwd: Path, **variables: object
) -> subprocess.Popen:
    """Starts a launch script."""
    return subprocess.Popen(
        ['bash', str(TOOLS / script), *map(str, args)],
        cwd=cwd,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    """Waits for a script that has to succeed and returns what it printed."""
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    return output
