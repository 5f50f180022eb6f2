"""The file of thresholds: what it holds, and whom it serves."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ltml_mm.decisions import thresholds

NAMES = ['cat', 'dög', 'cow']
CALIBRATION = dict(method='platt', slope=[1.0, 0.5, 2.0], offset=[0, -1, 0.5])


def make(digest='d' * 64, names=NAMES, **changes):
    rows = [
        dict(name=name, group='head', threshold=0.1 * (k + 1))
        for k, name in enumerate(names)
    ]
    given = dict(calibration=CALIBRATION, chosen_on=dict(kind='validation'))
    return thresholds.Thresholds(
        model=dict(name='epoch_8.pth', sha256=digest),
        metric='f1',
        classes=rows,
        **{**given, **changes},
    )


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / 'thresholds.json'
    thresholds.write_thresholds(path, make())
    found = thresholds.read_thresholds(path)
    assert found == make()
    assert found.names == NAMES
    scores = np.array([[0.1, 0.19, 0.9], [0.0, 0.2, 0.29]])
    assert found.decide(scores).tolist() == [
        [True, False, True],
        [False, True, False],
    ]


def test_calibration_is_monotone_and_as_written():
    scores = np.array([[0.0, 0.3, 1.0], [0.5, 0.8, 0.2]])
    found = make().calibrate(scores)
    # 0.8 has the odds 4: their root over e is the odds of the new score.
    odds = 2 / np.e
    assert found[1, 1] == pytest.approx(odds / (1 + odds))
    assert found[1, 0] == pytest.approx(0.5)
    assert np.isfinite(found).all()
    with pytest.raises(ValueError, match='--calibration'):
        make(calibration=None).calibrate(scores)


def test_digest_is_that_of_the_weights_in_any_file(tmp_path):
    state = {
        'b': torch.arange(6.0).reshape(2, 3).t(),
        'a': torch.tensor(3),
        'half': torch.ones(2, dtype=torch.bfloat16),
    }
    digest = thresholds.weights_digest(state)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / 'w.st')
    assert thresholds.weights_digest(load_file(tmp_path / 'w.st')) == digest
    assert thresholds.weights_digest(
        {f'module.{k}': v for k, v in state.items()}
    ) == (digest)
    assert thresholds.weights_digest({**state, 'a': torch.tensor(4)}) != digest
    renamed = {**state, 'c': state['a']}
    del renamed['a']
    assert thresholds.weights_digest(renamed) != digest
    flat = {**state, 'b': state['b'].reshape(6)}
    assert thresholds.weights_digest(flat) != digest


@pytest.mark.parametrize(
    ('digest', 'names', 'words'),
    [
        ('e' * 64, NAMES, 'of another model, epoch_8.pth'),
        ('d' * 64, ['cat', 'cow', 'dög'], "class 1 is 'dög' there, 'cow'"),
        ('d' * 64, NAMES[:2], "class 2 is 'cow' there, missing here"),
        ('d' * 64, [*NAMES, 'x'], "class 3 is missing there, 'x' here"),
    ],
)
def test_other_models_are_refused(tmp_path, digest, names, words):
    path = tmp_path / 'thresholds.json'
    thresholds.write_thresholds(path, make())
    with pytest.raises(thresholds.OtherModelError, match=words):
        thresholds.find_thresholds(tmp_path / 'x.pth', digest, names, path)
    # One that only lies there serves nobody else, and harms nobody.
    found, reason = thresholds.find_thresholds(
        tmp_path / 'x.pth', digest, names
    )
    assert found is None
    assert '0.5, which is a guess' in reason


def test_found_beside_the_checkpoint(tmp_path):
    checkpoint = tmp_path / 'epoch_8.pth'
    found, reason = thresholds.find_thresholds(checkpoint, 'd' * 64, NAMES)
    assert found is None
    assert '0.5, which is a guess' in reason
    assert '\n' not in reason
    thresholds.write_thresholds(tmp_path / 'thresholds.json', make())
    found, path = thresholds.find_thresholds(checkpoint, 'd' * 64, NAMES)
    assert found == make()
    assert path == str(tmp_path / 'thresholds.json')
    with pytest.raises(FileNotFoundError, match=r'nowhere\.json'):
        thresholds.find_thresholds(
            checkpoint, 'd' * 64, NAMES, tmp_path / 'nowhere.json'
        )


def spoil(content, key, value):
    place = content
    *path, last = key
    for part in path:
        place = place[part]
    place[last] = value


@pytest.mark.parametrize(
    ('key', 'value', 'words'),
    [
        (['format'], 7, 'format 7'),
        (['model'], {}, "KeyError 'name'"),
        (['classes', 1, 'threshold'], 1.5, 'threshold of dög .* 1.5'),
        (['classes', 1, 'threshold'], True, 'threshold of dög'),
        (['classes', 1, 'name'], 'cat', 'not distinct'),
        (['classes'], [], 'not distinct'),
        (['calibration', 'slope', 0], 0, 'above 0'),
        (['calibration', 'offset'], [1], '"offset" .* 3 numbers'),
        (['calibration'], 'platt', '"slope"'),
    ],
)
def test_broken_files_are_named(tmp_path, key, value, words):
    path = tmp_path / 'thresholds.json'
    thresholds.write_thresholds(path, make())
    content = json.loads(path.read_text())
    spoil(content, key, value)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words) as error:
        thresholds.read_thresholds(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize('text', ['', '[]', '{"a": 1}', '{"format": NaN}'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / 'thresholds.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=r'thresholds\.json'):
        thresholds.read_thresholds(path)
