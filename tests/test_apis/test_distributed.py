"""How the processes of a launcher meet."""

import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from ltml_mm.apis.cli import run_tool
from ltml_mm.apis.distributed import explain_lost_process, init_distributed
from ltml_mm.engine import TrainingStopped

ENVIRONMENTS = {
    'pytorch': dict(RANK='5', WORLD_SIZE='8', LOCAL_RANK='1'),
    'slurm': dict(SLURM_PROCID='5', SLURM_NTASKS='8', SLURM_LOCALID='1'),
    'mpi': dict(
        OMPI_COMM_WORLD_RANK='5',
        OMPI_COMM_WORLD_SIZE='8',
        OMPI_COMM_WORLD_LOCAL_RANK='1',
    ),
}
OTHERS = ('MASTER_ADDR', 'MASTER_PORT', 'SLURM_JOB_NODELIST')


@pytest.fixture
def groups(monkeypatch):
    """No launcher and no GPU; holds the backends of the groups made."""
    names = [name for environ in ENVIRONMENTS.values() for name in environ]
    for name in (*names, *OTHERS, 'LOCAL_WORLD_SIZE'):
        monkeypatch.setenv(name, '')  # so that it is put back after the test
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    made = []
    monkeypatch.setattr(torch.distributed, 'init_process_group', made.append)
    return made


@pytest.mark.parametrize('launcher', ENVIRONMENTS)
def test_cpus_meet_with_gloo(groups, launcher):
    os.environ.update(ENVIRONMENTS[launcher], MASTER_ADDR='a', MASTER_PORT='7')
    init_distributed(Config(), launcher)
    assert groups == ['gloo']
    for name, value in ENVIRONMENTS['pytorch'].items():
        assert os.environ[name] == value
    assert (os.environ['MASTER_ADDR'], os.environ['MASTER_PORT']) == ('a', '7')


def test_slurm_names_the_first_machine(groups, tmp_path, monkeypatch):
    program = tmp_path / 'scontrol'
    program.write_text(
        '#!/bin/sh\n[ "$*" = "show hostnames n[1-2]" ] && printf "n1\\nn2\\n"'
    )
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    os.environ.update(ENVIRONMENTS['slurm'], SLURM_JOB_NODELIST='n[1-2]')
    init_distributed(Config(), 'slurm')
    found = (os.environ['MASTER_ADDR'], os.environ['MASTER_PORT'])
    assert found == ('n1', '29500')


@pytest.mark.parametrize(
    ('launcher', 'environment', 'message'),
    [
        ('mpi', ENVIRONMENTS['mpi'], 'set MASTER_ADDR'),
        ('pytorch', {}, r'RANK, WORLD_SIZE.*dist_train\.sh'),
        # Each would train alone, into the same folder.
        ('none', {'WORLD_SIZE': '2'}, r'E=2: .* --launcher pytorch'),
        ('none', {'OMPI_COMM_WORLD_SIZE': '2'}, r'E=2: .* --launcher mpi'),
        ('none', {'SLURM_STEP_NUM_TASKS': '2'}, r'S=2: .* --launcher slurm'),
        ('none', {'PMI_SIZE': '2'}, r'E=2: .* --launcher pytorch'),
    ],
)
def test_what_a_launcher_lacks(
    groups, monkeypatch, launcher, environment, message
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        init_distributed(Config(), launcher)
    assert not groups


def test_torchrun_with_one_process_needs_no_launcher(groups):
    os.environ['WORLD_SIZE'] = '1'
    init_distributed(Config(), 'none')
    assert not groups


def test_the_wrapper_keeps_what_the_config_says(groups):
    os.environ.update(ENVIRONMENTS['pytorch'], MASTER_ADDR='a')
    cfg = Config(dict(find_unused_parameters=True))
    init_distributed(cfg, 'pytorch')
    # MMEngine's own arguments on GPUs, but for the device.
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=True,
        device_ids=None,
    )
    cfg = Config(dict(model_wrapper_cfg=dict(static_graph=True)))
    init_distributed(cfg, 'pytorch')
    assert cfg.model_wrapper_cfg.static_graph
    assert cfg.model_wrapper_cfg.device_ids is None


@pytest.mark.parametrize('launcher', ENVIRONMENTS)
def test_fewer_gpus_than_processes(groups, monkeypatch, launcher):
    os.environ.update(ENVIRONMENTS[launcher], MASTER_ADDR='a')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    for has, least, said in ((1, {}, 2), (2, {'LOCAL_WORLD_SIZE': '3'}, 3)):
        os.environ.update(least)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda has=has: has)
        words = f'{said} processes.* need {said} GPUs.* has {has}'
        with pytest.raises(ValueError, match=words):
            init_distributed(Config(), launcher)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 3)
    cfg = Config()
    init_distributed(cfg, launcher)
    # With GPUs, group and wrapper are MMEngine's, which reads LOCAL_RANK.
    assert not groups
    assert 'model_wrapper_cfg' not in cfg
    assert os.environ['LOCAL_RANK'] == '1'


def gloo_threads():
    names = Path('/proc/self/task').glob('*/comm')
    return sum('gloo' in name.read_text() for name in names)


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('stopped', [False, True])
def test_a_tool_closes_its_group_at_its_orderly_end(
    stopped, tmp_path, monkeypatch
):
    # A group left open aborts a process that exits before the others.
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    before = gloo_threads()

    def meet():
        torch.distributed.init_process_group(
            'gloo', init_method=f'file://{tmp_path}/meet', rank=0, world_size=1
        )
        while gloo_threads() == before:  # they name themselves
            time.sleep(0.01)
        # As a Runner does: it holds the group, and itself.
        runner = [torch.distributed.group.WORLD]
        runner.append(runner)
        if stopped:
            raise TrainingStopped(signal.SIGTERM, together=True)

    end = pytest.raises(SystemExit, match='143') if stopped else nullcontext()
    try:
        with end:
            run_tool(meet)
        assert not torch.distributed.is_initialized()
        assert gloo_threads() == before
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def test_a_lost_worker_inside_another_error():
    # It may come while a config is formatted, which calls it a syntax error.
    words = 'DataLoader worker (pid 7) is killed by signal: Killed. '
    lost = SyntaxError('check the syntax')
    lost.__context__ = RuntimeError(words)
    assert words.strip() in explain_lost_process(lost)
    assert explain_lost_process(SyntaxError('check the syntax')) is None
    assert explain_lost_process(RuntimeError('of another kind')) is None
