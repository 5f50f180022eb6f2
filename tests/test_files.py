"""Files are written whole or not at all."""

import json
import os

import pytest

from ltml_mm.files import write_bytes, write_json, write_text


def test_folders_are_made(tmp_path):
    write_text(tmp_path / 'a/b/c.txt', 'größe\n')
    assert (tmp_path / 'a/b/c.txt').read_bytes() == 'größe\n'.encode()
    assert os.listdir(tmp_path / 'a/b') == ['c.txt']


def test_what_was_there_is_replaced(tmp_path):
    path = tmp_path / 'x.bin'
    path.write_bytes(b'a much longer content')
    write_bytes(str(path), b'new')
    assert path.read_bytes() == b'new'


@pytest.mark.parametrize('step', ['fsync', 'replace'])
def test_a_failure_leaves_the_old_file_alone(tmp_path, monkeypatch, step):
    def fail(*args):
        raise OSError(28, 'No space left on device')

    path = tmp_path / 'x.txt'
    path.write_text('old')
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match='No space left'):
        write_text(path, 'new')
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['x.txt']


def test_json_round_trip(tmp_path):
    content = {'names': ['chaise longue', 'Stühle'], 'ap': [0.5, None]}
    write_json(tmp_path / 'x.json', content)
    text = (tmp_path / 'x.json').read_text('utf-8')
    assert json.loads(text) == content
    assert 'Stühle' in text
    assert text.endswith('}\n')


@pytest.mark.parametrize('value', [float('nan'), float('inf'), object()])
def test_what_is_not_json_is_refused_and_nothing_written(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / 'x.json', {'value': value})
    assert not os.listdir(tmp_path)
