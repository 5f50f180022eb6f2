"""The one line that reproduces the paper's table, listed and not run."""

import subprocess

import pytest
from mmengine.config import Config
from tiny_run import REPO, TOOLS, environment

from ltml_mm.experiments.rows import ROWS


def reproduce(*arguments, cwd):
    return subprocess.run(
        ['bash', str(TOOLS / 'reproduce.sh'), *arguments],
        cwd=cwd,
        env=environment(PYTHONPATH=REPO),
        capture_output=True,
        text=True,
    )


def test_every_row_and_seed_is_listed_and_nothing_written(tmp_path):
    out = REPO / 'work_dirs/voc_table'
    before = out.exists()
    process = reproduce('voc', '--dry-run', cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    lines = [
        line.split()
        for line in process.stdout.splitlines()
        if line.startswith('work_dirs')
    ]
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


@pytest.mark.parametrize('arguments', [(), ('imagenet',)])
def test_other_sets_are_refused(arguments, tmp_path):
    process = reproduce(*arguments, cwd=tmp_path)
    assert process.returncode == 2
    assert 'voc|coco' in process.stderr
