"""The package as it is installed: a wheel, away from the checkout."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ('ltml_mm', 'ltml_cli', 'configs', 'tools')
FEW_STEPS = (
    *('train_cfg.max_epochs=1', 'train_dataloader.batch_size=4'),
    'train_dataloader.sampler.epoch_length=8',
    *(f'{name}_dataloader.num_workers=0' for name in ('train', 'val')),
    *('val_dataloader.dataset.indices=20', 'model.backbone.base_channels=8'),
    'model.backbone.stem_channels=8',
)


def run(*command, cwd):
    """Runs a command that does not see the checkout."""
    hidden = ('PYTHONPATH', 'PYTHONHOME', 'LTML_TRACEBACK')
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**env, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The folder of the wheel and of the sdist that it was built from."""
    for name in ('build', 'twine'):
        pytest.importorskip(name)
    version = importlib.metadata.version('setuptools').split('.')
    if tuple(map(int, version[:2])) < (70, 1):
        pytest.importorskip('wheel')
    folder = tmp_path_factory.mktemp('built')
    source = folder / 'source'
    ignored = shutil.ignore_patterns('__pycache__', '*.egg-info')
    for name in NAMES:
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    command = ('-m', 'build', '--no-isolation', '--outdir', folder, source)
    run(sys.executable, *command, cwd=folder)
    return folder


@pytest.fixture(scope='module')
def environment(built):
    """A new environment with the wheel, and all else of this one."""
    folder = built / 'env'
    run(sys.executable, '-m', 'venv', '--without-pip', folder, cwd=built)
    python = folder / 'bin' / 'python'
    [wheel] = built.glob('*.whl')
    pip = ('-m', 'pip', '-q', '--python', python, 'install', '--no-deps')
    run(sys.executable, *pip, '--no-index', wheel, cwd=built)
    [site] = folder.glob('lib/python*/site-packages')
    # Files *.pth of that folder, such as a checkout's, are not read.
    (site / 'rest.pth').write_text(sysconfig.get_path('purelib'))
    return folder


def test_both_files_pass_twine(built):
    files = [*built.glob('*.whl'), *built.glob('*.tar.gz')]
    assert len(files) == 2
    run(sys.executable, '-m', 'twine', 'check', '--strict', *files, cwd=built)


def test_the_demo_trains_away_from_the_checkout(environment, tmp_path):
    ltml = environment / 'bin' / 'ltml'
    shown = run(
        *(ltml, 'train', 'ltml_demo', '--work-dir', 'out'),
        *('--cfg-options', *FEW_STEPS),
        cwd=tmp_path,
    )
    assert (tmp_path / 'out' / 'epoch_1.pth').is_file()
    assert 'mAP' in shown
    assert str(ROOT) not in shown
    where = (
        'from importlib.util import find_spec; '
        "print(*map(find_spec, ('ltml_mm', 'ltml_cli')))"
    )
    told = run(environment / 'bin' / 'python', '-c', where, cwd=tmp_path)
    assert told.count(str(environment)) >= 2
    assert str(ROOT) not in told


def test_what_mim_looks_for_is_there(environment):
    [mim] = environment.glob('lib/python*/site-packages/ltml_mm/.mim')
    for name in ('configs', 'tools'):
        for path in (ROOT / name).rglob('*'):
            if path.is_file() and path.suffix not in ('.pyc', ''):
                copy = mim / path.relative_to(ROOT)
                assert copy.read_bytes() == path.read_bytes()
    index = (mim / 'model-index.yml').read_text()
    assert all((mim / line[4:]).is_file() for line in index.split('\n')[1:-1])
