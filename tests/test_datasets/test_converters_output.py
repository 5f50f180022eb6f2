"""Output appears whole or not at all."""

import os

import pytest
from own_data import (
    convert,
    load,
    make_csv,
    make_images,
    make_mmpretrain,
)


@pytest.fixture
def root(tmp_path):
    return make_images(tmp_path / 'src')


def test_source_is_never_overwritten(root):
    source, _ = make_mmpretrain(root)
    source.rename(root / 'train.json')
    before = (root / 'train.json').read_bytes()
    with pytest.raises(ValueError, match='read as a source'):
        convert(root / 'train.json', root, 'mmpretrain', output=['force'])
    assert (root / 'train.json').read_bytes() == before


def snapshot(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize('fails_at', range(1, 3))
def test_a_fault_while_writing_leaves_whole_files_and_no_record(
    root, tmp_path, monkeypatch, fails_at
):
    source, _ = make_csv(root)
    out = tmp_path / 'out'
    convert(source, out, test=0.5)
    (out / 'mine.txt').write_text('mine')
    before = snapshot(out)
    calls = []
    replace = os.replace

    def faulty(*args):
        calls.append(args)
        if len(calls) == fails_at:
            raise OSError(28, 'No space left on device', args[1])
        replace(*args)

    monkeypatch.setattr(os, 'replace', faulty)
    with pytest.raises(OSError, match='No space left'):
        convert(source, out, output=['force'])
    found = snapshot(out)
    assert set(found) == {'train.json', 'mine.txt'}
    assert len(load(out / 'train.json')['data_list']) == (2, 4)[fails_at - 1]
    assert found['mine.txt'] == before['mine.txt']
    monkeypatch.undo()
    convert(source, out, output=['force'])
    # A stale test set would not belong to the new training set.
    assert set(snapshot(out)) == {'train.json', 'split.json', 'mine.txt'}


def test_output_folder_that_is_a_file(root, tmp_path):
    source, _ = make_csv(root)
    (tmp_path / 'out').touch()
    with pytest.raises(ValueError, match='not a folder'):
        convert(source, tmp_path / 'out')
