"""Mistyped command lines: nothing is started, and the word is named."""

import bad_run
import pytest

from ltml_cli import parse
from ltml_mm.apis import predict, test, train
from ltml_mm.apis.config import load_config

pytestmark = pytest.mark.usefixtures('quick')

MAINS = {'train': train.main, 'test': test.main, 'predict': predict.main}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a config, a picture and something like a checkpoint."""
    config = bad_run.write_case(tmp_path)
    (tmp_path / 'some.pth').write_bytes(b'nothing')
    monkeypatch.chdir(tmp_path)
    return config


#: Words of the command line; status 1, from the tool, and what it says.
REFUSED = {
    'train tiny.py --cfg-options data_root=nowhere': (
        'no such folder of data: nowhere'
    ),
    'train tiny.py --cfg-options train_cfg.max_epochs=two': (
        "invalid literal .*'two'"
    ),
    'train tiny.py --amp': '--amp needs a GPU',
    'train tiny.py --launcher slurm': (
        '--launcher slurm needs SLURM_PROCID.* start it with'
    ),
    'predict tiny.py some.pth data/0.png --device toaster': (
        "no device 'toaster' here"
    ),
    'train data/0.png': 'py/yml',
    'train tiny.py --cfg-options trian_cfg.max_epochs=1': (
        "trian_cfg.max_epochs: nothing reads 'trian_cfg' in the config; did "
        r'you mean train_cfg\.max_epochs'
    ),
    'train tiny.py --cfg-options train_cfg.max_epoch=1': (
        r"nothing reads 'max_epoch' in train_cfg; .*train_cfg\.max_epochs"
    ),
    'train tiny.py --cfg-options train_cfg.max_epochs.x=1': (
        r'--cfg-options train_cfg\.max_epochs\.x=1 does not fit the config'
    ),
    'train tiny.py --cfg-options test_dataloader.dataset.pipeline.9.type=x': (
        r'--cfg-options .*pipeline\.9\.type=.* does not fit the config'
    ),
}


@pytest.mark.parametrize(('words', 'message'), REFUSED.items())
def test_refused(place, monkeypatch, words, message):
    monkeypatch.delenv('SLURM_PROCID', raising=False)
    tool, *arguments = words.split()
    bad_run.assert_refused(bad_run.run_main(MAINS[tool], *arguments), message)
    (place.parent / 'some.pth').unlink()
    bad_run.assert_nothing_half_written(place.parent)


#: Words that do not parse; status 2, as of every command line.
UNPARSED = {
    'train tiny.py --epoks 3': 'arguments: --epoks 3; did you mean --epochs?',
    'train tiny.py --launcher ssh': "invalid choice: 'ssh'",
    'train tiny.py --cfg-options seed': "'seed' is not of the form KEY=VALUE",
    'train tiny.py --cfg-options =5': "'=5' is not of the form KEY=VALUE",
    'train tiny.py --cfg-options a=[1,2': 'brackets that do not match',
    'test tiny.py some.pth --out a.pkl': 'must end with .json, got a.pkl',
    'predict tiny.py some.pth a --threshold nan': 'must be in [0, 1], got nan',
    'test tiny.py some.pth --tta --show-dir out': 'leave out --tta',
    'predict tiny.py some.pth a --topk 0': '--topk: must be positive, got 0',
    'predict tiny.py some.pth a --topk 1 --threshold 0.5': 'not allowed with',
    'predict tiny.py some.pth a --batch-size 0': 'must be positive, got 0',
    'merge tiny.py some.pth merged': 'OUT must end with .pth, got merged',
    'merge tiny.py some.pth a.pth --bn-images -1': 'must not be negative',
    'export tiny.py some.pth a.pt --format torchscript --int8 b': 'is of ONNX',
    'export tiny.py some.pth a --without-preprocessing --int8 b': 'is of ONNX',
    'export tiny.py some.pth a --int8 b --int8-images 0': 'positive, got 0',
    'thresholds tiny.py some.pth --metric accuracy': 'the metric must be f1',
    'thresholds tiny.py some.pth --folds 1': 'at least 2',
    'thresholds tiny.py some.pth --on test': '--on must be val, train-frac',
    'thresholds tiny.py some.pth --figure a --calibration none': 'calibrated',
    'model-report tiny.py some.pth --out x --train-images -1': 'at least 0',
}


@pytest.mark.parametrize(('words', 'message'), UNPARSED.items())
def test_unparsed(place, words, message, capsys):
    tool, *arguments = words.split()
    with pytest.raises(SystemExit, match='2'):
        parse(tool, arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(', 'SyntaxError'),
        ("_base_ = 'no_base.py'", r'no_base\.py'),
    ],
)
def test_unreadable_config(place, text, message):
    place.write_text(text)
    bad_run.assert_refused(bad_run.training(place), message)


def test_a_missing_section(place, monkeypatch):
    def load(*args):
        cfg = load_config(*args)
        cfg.pop('model')
        return cfg

    monkeypatch.setattr(train, 'load_config', load)
    message = "the config does not fit the Runner: it has no 'model'"
    bad_run.assert_refused(bad_run.training(place), message)
