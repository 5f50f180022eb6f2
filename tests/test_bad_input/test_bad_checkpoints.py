"""Checkpoints of another model, or of somebody else: what each tool does."""

from pathlib import Path

import bad_run
import pytest
import torch
from tiny_training import extend

from ltml_mm.apis import read_checkpoint

pytestmark = pytest.mark.usefixtures('quick')

WIDER = 'model = dict(backbone=dict(stem_channels=8, base_channels=8))'
DEEPER = 'model = dict(backbone=dict(depth=34))'


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, 'ran')


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A checkpoint of each kind, trained by the tool itself."""
    folder = tmp_path_factory.mktemp('saved')
    own = bad_run.write_case(folder / 'own')
    configs = {
        'own': own,
        'wider': extend(bad_run.write_case(folder / 'wider'), WIDER),
        'deeper': extend(bad_run.write_case(folder / 'deeper'), DEEPER),
        'plain': bad_run.write_case(folder / 'plain', plain=True),
        'two classes': bad_run.write_case(
            folder / 'classes', [[0], [1]] * 5, classes=['common', 'medium']
        ),
    }
    paths = {}
    for kind, config in configs.items():
        status, shown = bad_run.training(config)
        assert status == 0, shown
        paths[kind] = config.parent / 'work' / 'epoch_1.pth'
    content = read_checkpoint(paths['own'])
    for kind, change in damages(folder).items():
        paths[kind] = folder / f'{kind}.pth'
        change(dict(content), paths[kind])
    return paths


def damages(folder):
    """What can be done to a checkpoint: from its content to a new file."""

    bomb = Bomb(folder / 'ran')

    def cut(content, path):
        torch.save(content, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return {
        'bomb': lambda content, path: torch.save(
            {**content, 'extra': bomb}, path
        ),
        'bomb in the weights': lambda content, path: torch.save(
            {'state_dict': {**content['state_dict'], 'a': bomb}}, path
        ),
        'text': lambda content, path: path.write_text('no weights'),
        'empty': lambda content, path: path.write_bytes(b''),
        'bomb of the old format': lambda content, path: torch.save(
            {**content, 'extra': bomb},
            path,
            _use_new_zipfile_serialization=False,
        ),
        'bare': lambda content, path: torch.save(content['state_dict'], path),
        'cut': cut,
        'missing': lambda content, path: None,
        'folder': lambda content, path: path.mkdir(),
    }


MISFIT = 'it is a checkpoint of another model'
PICKLE = 'is refused: it holds pickled objects'
CUT = 'is truncated or no checkpoint'
#: What a test, --resume and load_from say; None where it works.
CASES = {
    'wider': (rf'{MISFIT} .*shape \(8,',) * 3,
    # Its further blocks are left out where a training starts from it.
    'deeper': (*(f'{MISFIT} .*layer1.* is unexpected',) * 2, None),
    'plain': (*(f'{MISFIT} .*layer4.* is unexpected',) * 2, None),
    # The classes are those of the checkpoint, which the test set lacks.
    'two classes': (
        r"test\.json: its classes .* expected \(2\): class 2, 'rare', is one",
        rf'{MISFIT} .*has shape \(2,',
        None,
    ),
    'bomb': (PICKLE,) * 3,
    'bomb in the weights': (PICKLE,) * 3,
    'text': ('is truncated or no checkpoint|is no checkpoint',) * 3,
    'empty': (CUT,) * 3,
    'bomb of the old format': (PICKLE,) * 3,
    'bare': ('holds no "state_dict"',) * 3,
    'cut': (CUT,) * 3,
    'missing': ('checkpoint not found',) * 3,
    'folder': ('checkpoint not found',) * 3,
}


@pytest.mark.parametrize('case', CASES)
def test_another_checkpoint(saved, tmp_path, case):
    path = saved[case]
    evaluated, resumed, started = CASES[case]
    config = bad_run.write_case(tmp_path)
    bad_run.assert_refused(bad_run.evaluation(config, path), evaluated)
    bad_run.assert_refused(
        bad_run.resumption(config, path), resumed, str(path)
    )
    bad_run.assert_nothing_half_written(tmp_path)
    outcome = bad_run.training(config, f'load_from={path}')
    if started is None:
        assert outcome[0] == 0, outcome[1]
    else:
        bad_run.assert_refused(outcome, started, str(path))
        bad_run.assert_nothing_half_written(tmp_path)
    outcome = bad_run.prediction(config, path, tmp_path / 'data' / '0.png')
    if case == 'two classes':  # its own are predicted
        assert outcome[0] == 0, outcome[1]
    else:
        bad_run.assert_refused(outcome, str(path))
    assert not (path.parent / 'ran').exists()


def test_the_bomb_would_go_off(saved, monkeypatch):
    """Or the cases above would prove nothing."""
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD')
    path = saved['bomb']
    torch.load(path, weights_only=False)
    ran = path.parent / 'ran'
    assert ran.read_text() == 'ran'
    ran.unlink()


def test_the_own_checkpoint(saved, tmp_path):
    config = bad_run.write_case(tmp_path)
    out = tmp_path / 'out'
    assert bad_run.evaluation(config, saved['own'], '--show-dir', out)[0] == 0
    assert len(list(out.glob('*.png'))) == 10
    assert bad_run.evaluation(config, saved['own'], '--tta')[0] == 0
    outcome = bad_run.evaluation(config, saved['plain'], '--tta')
    bad_run.assert_refused(outcome, MISFIT)
    image = tmp_path / 'data' / '0.png'
    assert bad_run.prediction(config, saved['own'], image)[0] == 0
    options = [saved['own'], 'train_cfg.max_epochs=2']
    bad_run.assert_refused(
        bad_run.resumption(config, *options), 'max_epochs: 1 -> 2'
    )
    options.append('default_hooks.exact_resume.on_change=warn')
    outcome = bad_run.resumption(config, *options)
    assert outcome[0] == 0, outcome[1]


def test_weights_of_a_plain_model_go_to_both_branches(saved, tmp_path):
    """What is promised of ``load_from`` with a stock classifier."""
    config = bad_run.write_case(tmp_path)
    options = (f'load_from={saved["plain"]}', 'optim_wrapper.optimizer.lr=0.')
    assert bad_run.training(config, *options)[0] == 0
    plain, own = (
        read_checkpoint(path)['state_dict']
        for path in (saved['plain'], tmp_path / 'work' / 'epoch_1.pth')
    )
    key = '0.conv1.weight'
    for branch in ('uniform', 'rebalanced'):
        assert torch.equal(
            own[f'backbone.layer4.{branch}.{key}'],
            plain[f'backbone.layer4.{key}'],
        )


@pytest.mark.parametrize('case', ['bomb', 'bomb of the old format'])
def test_pretrained_weights_are_not_executed(saved, tmp_path, case):
    """``init_cfg`` goes through MMEngine's own loader."""
    config = extend(
        bad_run.write_case(tmp_path),
        'model = dict(backbone=dict(init_cfg=dict(\n'
        f"    type='Pretrained', checkpoint={str(saved[case])!r})))",
    )
    bad_run.assert_refused(
        bad_run.training(config), 'Weights only load failed|weights'
    )
    assert not (saved[case].parent / 'ran').exists()
    bad_run.assert_nothing_half_written(tmp_path)
