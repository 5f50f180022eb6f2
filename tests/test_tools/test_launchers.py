"""The launch scripts, with programs in place of Python and Slurm."""

import json
import os
import re
import subprocess
import sys

import pytest
from mmengine.config import Config
from tiny_run import REPO, TOOLS, environment, finish, start

from ltml_cli.result_parsers import ROWS
from ltml_mm.apis.learning_rate import fill_learning_rate

# Records its arguments and a few variables, one JSON line a call.
RECORDER = """#!{python}
import json, os, sys
names = ('OMP_NUM_THREADS', 'MASTER_PORT', 'PYTHONPATH')
record = dict(argv=sys.argv[1:], cwd=os.getcwd(),
              **{{name: os.environ.get(name) for name in names}})
with open({log!r}, 'a') as file:
    file.write(json.dumps(record) + '\\n')
"""


@pytest.fixture
def record(tmp_path):
    """Runs a script whose ``python`` and ``srun`` only record."""
    log = tmp_path / 'calls.jsonl'
    bins = tmp_path / 'bin'
    bins.mkdir()
    for name in ('python', 'srun'):
        program = bins / name
        program.write_text(
            RECORDER.format(python=sys.executable, log=str(log))
        )
        program.chmod(0o755)

    def run(script, *args, cwd=tmp_path, **variables):
        log.unlink(missing_ok=True)
        environ = environment(**variables)
        environ['PATH'] = f'{bins}:{environ["PATH"]}'
        for name in [name for name, value in variables.items() if not value]:
            del environ[name]
        subprocess.run(
            ['bash', os.path.relpath(TOOLS / script, cwd), *map(str, args)],
            check=True,
            env=environ,
            cwd=cwd,
        )
        return [json.loads(line) for line in log.read_text().splitlines()]

    return run


def options_of(argv, end):
    """The options before a program's name, as a dict."""
    options = argv[: argv.index(end)]
    return dict(o.split('=', 1) for o in options if o.startswith('--'))


ODD = ['--cfg-options', 'data_root=my data/"a"', 'x=$HOME *', '']


@pytest.mark.parametrize('name', ['train', 'test'])
@pytest.mark.parametrize('given', [False, True])
def test_dist_scripts_pass_everything_on(record, name, given):
    files = ['my config.py', 'a b.pth'][: 1 + (name == 'test')]
    names = ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT')
    values = ('4', '2', 'node-a', '1234') if given else ('',) * 4
    environ = dict(zip(names, values, strict=True))
    threads = '5' if given else ''
    *first, launched = record(
        f'dist_{name}.sh', *files, 3, *ODD, OMP_NUM_THREADS=threads, **environ
    )
    warm = [['-c', 'import yapf']] * (name == 'train')
    assert [call['argv'] for call in first] == warm
    tool = str(TOOLS / f'{name}.py')
    argv = launched['argv']
    assert argv[:2] == ['-m', 'torch.distributed.run']
    passed = [tool, *files, '--launcher', 'pytorch', *ODD]
    assert argv[argv.index(tool) :] == passed
    flags = ('--nnodes', '--node-rank', '--master-addr', '--master-port')
    if not given:
        values = ('1', '0', '127.0.0.1', '29500')
    assert options_of(argv, tool) == {
        **dict(zip(flags, values, strict=True)),
        '--nproc-per-node': '3',
    }
    assert launched['OMP_NUM_THREADS'] == (threads or '1')
    assert os.path.realpath(launched['PYTHONPATH'].split(':')[0]) == str(REPO)


def test_slurm_train(record):
    _, call = record(
        *('slurm_train.sh', 'gpu', 'my job', 'c.py', 'work dir', *ODD),
        GPUS=16,
        GPUS_PER_NODE=4,
        CPUS_PER_TASK=6,
        PORT=1234,
        SRUN_ARGS='--quotatype=auto --time=1:00',
    )
    expected = (
        '--partition=gpu --gres=gpu:4 --ntasks=16 --ntasks-per-node=4 '
        '--cpus-per-task=6 --kill-on-bad-exit=1 --quotatype=auto --time=1:00'
    )
    options = dict(option.split('=') for option in expected.split())
    options['--job-name'] = 'my job'
    assert options_of(call['argv'], 'python') == options
    command = f'python -u {TOOLS}/train.py c.py --launcher slurm'.split()
    command += ['--work-dir', 'work dir', *ODD]
    assert call['argv'][call['argv'].index('python') :] == command
    assert call['MASTER_PORT'] == '1234'


def test_slurm_train_without_work_dir(record):
    _, call = record('slurm_train.sh', 'p', 'j', 'c.py', '--amp', GPUS=2)
    argv = call['argv']
    assert argv[-4:] == ['c.py', '--launcher', 'slurm', '--amp']
    options = options_of(argv, 'python')
    # A job of two GPUs does not ask for a machine with eight.
    assert (options['--ntasks'], options['--ntasks-per-node']) == ('2', '2')
    assert options['--gres'] == 'gpu:2'


def test_slurm_test(record):
    (call,) = record('slurm_test.sh', 'p', 'j', 'c.py', 'a b.pth', *ODD)
    tool = str(TOOLS / 'test.py')
    command = [tool, 'c.py', 'a b.pth', '--launcher', 'slurm', *ODD]
    assert call['argv'][call['argv'].index('python') + 2 :] == command
    options = options_of(call['argv'], 'python')
    assert (options['--ntasks'], options['--cpus-per-task']) == ('8', '5')


@pytest.mark.parametrize(
    'words',
    [
        *('dist_train.sh 1', 'dist_test.sh 1 2', 'slurm_train.sh 1 2'),
        *('slurm_test.sh 1 2 3', 'reproduce.sh', 'reproduce.sh imagenet'),
    ],
)
def test_arguments_that_do_not_suffice(tmp_path, words):
    process = start(*words.split(), cwd=tmp_path)
    output, _ = process.communicate()
    assert process.returncode == 2
    assert output.startswith('usage: ')
    assert output.count('\n') == 1


def test_every_row_and_seed_is_listed_and_nothing_written(tmp_path):
    out = REPO / 'work_dirs/voc_table'
    before = out.exists()
    words = ('reproduce.sh', 'voc', '--dry-run')
    output = finish(start(*words, cwd=tmp_path, PYTHONPATH=REPO))
    lines = re.findall(r'^(work_dirs\S+) +(\S+)$', output, re.M)
    assert {folder for folder, _ in lines} == {
        f'work_dirs/voc_table/{row}/seed_{seed}'
        for row in ROWS
        for seed in range(5)
    }
    assert len(lines) == 5 * len(ROWS)
    for _, config in lines[: len(ROWS)]:
        dataset = Config.fromfile(config).train_dataloader.dataset.dataset
        assert dataset.type == 'VOCLTDataset'
    assert out.exists() == before
    assert not [*tmp_path.iterdir()]


def test_the_fast_table_searches_the_rate_of_every_row(tmp_path):
    words = ('reproduce.sh', 'voc', '--fast', '--dry-run', '--seeds', '0')
    out = f'--out={tmp_path}'
    output = finish(start(*words, out, cwd=tmp_path, PYTHONPATH=REPO))
    lines = dict(re.findall(r'^(\S+/seed_0) +(\S.*)$', output, re.M))
    # Three rates of every row that are tried, and the rows.
    assert len(lines) == 4 * len(ROWS)
    rates = sorted(
        float(words.split('=')[1])
        for folder, words in lines.items()
        if '/tune/ltml-' in folder
    )
    script = (REPO / 'tools/reproduce.sh').read_text('utf-8')
    for data in ('coco', 'voc'):
        path = REPO / f'configs/recipes/ltml_{data}_fast.py'
        recipe = Config.fromfile(path)
        sampler = recipe.train_dataloader.sampler
        assert f'[{data}]={2 * sampler.epoch_length}' in script
        for hook in recipe.custom_hooks:
            assert f"dict(type='{hook.type}')" in script
    fill_learning_rate(recipe)
    own = recipe.optim_wrapper.optimizer.lr
    assert rates == pytest.approx([own / 2, own, 2 * own])
