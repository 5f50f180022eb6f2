import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from inference_case import CLASSES, GROUPS, META, save
from inference_case import save_case as make
from PIL import Image

from ltml_mm.apis import MultiLabelInferencer
from ltml_mm.apis.predict import main
from ltml_mm.datasets.images import FORMATS

TOOL = Path(__file__).parents[2] / 'tools' / 'predict.py'


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    config, checkpoint, _ = make(tmp_path_factory.mktemp('model'))
    return str(config), str(checkpoint)


def predict(case, *args):
    """Runs the tool; returns its exit status."""
    try:
        main([*map(str, [*case, *args])])
    except SystemExit as error:
        return error.code
    return 0


def read(out):
    def refuse(constant):
        raise AssertionError(f'{constant} is not JSON')

    text = (out / 'predictions.json').read_text(encoding='utf-8')
    return json.loads(text, parse_constant=refuse)


def files(folder):
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()
    )


def test_folder(case, tmp_path, capsys):
    folder, out = tmp_path / 'in', tmp_path / 'out'
    images = [save(folder / f'{n}/x.png', i) for i, n in enumerate('ab')]
    assert predict(case, folder, '--out', out, '--threshold', 0.2) == 0
    report, (shown, log) = read(out), capsys.readouterr()
    assert 'image/s' not in log  # no terminal, no bar
    expected = MultiLabelInferencer(*case, 'cpu')(images, threshold=0.2)
    for record, reference in zip(report['predictions'], expected, strict=True):
        assert record['scores'] == pytest.approx(reference['scores'])
        for key in ('name', 'group', 'train_images'):
            assert [label[key] for label in record['labels']] == [
                label[key] for label in reference['labels']
            ]
        # Its lower half has no words.
        picture = Image.open(out / record['picture'])
        source = Image.open(record['path']).resize(picture.size)
        half = picture.height // 2
        np.testing.assert_array_equal(
            np.asarray(picture)[half:], np.asarray(source)[half:]
        )
    pictures = ['pictures/a/x.png', 'pictures/b/x.png']
    assert files(out) == [*pictures, 'predictions.json']
    assert report['classes'] == [
        dict(name=n, group=g, train_images=c)
        for n, g, c in zip(CLASSES, GROUPS, META['class_counts'], strict=True)
    ]
    rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in shown.splitlines()[2:]
    ]
    assert rows == [
        [
            os.path.relpath(record['path'], folder),
            label['name'],
            f'{label["score"]:.3f}',
            label['group'],
            str(label['train_images']),
        ]
        for record in report['predictions']
        for label in record['labels']
    ]


def test_single_image_without_out_writes_nothing(
    case, tmp_path, capsys, monkeypatch
):
    path = save(tmp_path / 'photo.png')
    monkeypatch.chdir(tmp_path)
    assert predict(case, path.name, '--topk', 2) == 0
    assert files(tmp_path) == ['photo.png']
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(line.startswith('| photo.png ') for line in lines[2:])


def test_image_above_no_threshold_has_a_row(case, tmp_path, capsys):
    path = save(tmp_path / 'a.png').rename(tmp_path / 'a.xyz')
    assert predict(case, path, '--threshold', 1, '--out', tmp_path / 'o') == 0
    assert '| a.xyz | -' in capsys.readouterr().out
    (record,) = read(tmp_path / 'o')['predictions']
    assert record['labels'] == []
    # Pillow has no format of that name.
    assert record['picture'] == 'pictures/a.xyz.png'


def test_hostile_folder(case, tmp_path, capsys):
    outside = save(tmp_path / 'outside' / 'secret.png', 9)
    folder, out = tmp_path / 'in', tmp_path / 'out'
    good = ['new\nline.png', 'sub.png/ünï [b].png', '\udcff.png']
    good += ['..png', '.png', '.png.png']
    good.append('n' * 245 + '.png')
    for seed, name in enumerate(good):
        save(folder / name, seed)
    (folder / 'linked.png').symlink_to(folder / '..png')
    (folder / 'sub_again').symlink_to(folder / 'sub.png')
    (folder / 'empty.jpg').touch()
    (folder / 'text.png').write_text('not an image')
    whole = (folder / '..png').read_bytes()
    (folder / 'cut.png').write_bytes(whole[: len(whole) // 2])
    (folder / 'link.png').symlink_to(outside)
    (folder / 'folder').symlink_to(outside.parent)
    (folder / 'nowhere.png').symlink_to(folder / 'missing')
    (folder / 'loop.png').symlink_to(folder / 'loop.png')
    os.mkfifo(folder / 'pipe.png')  # reading it would never end
    before = files(tmp_path)
    assert predict(case, folder, '--out', out) == 3
    report = read(out)
    assert {
        os.path.relpath(item['path'], folder): item['reason'].split(' (')[0]
        for item in report['skipped']
    } == {
        'empty.jpg': 'the file is empty',
        'text.png': f'not an image, or not one of {", ".join(FORMATS)}',
        'cut.png': 'image file is truncated',
        'link.png': 'a link that points out of the folder',
        'folder': 'a link that points out of the folder',
        'nowhere.png': 'not a regular file',
        'loop.png': 'not a regular file',
        'pipe.png': 'not a regular file',
    }
    shown = capsys.readouterr()
    assert '8 of 16 files were skipped' in shown.err
    assert r'new\nline.png' in shown.out
    assert 'ünï [b].png' in shown.out
    assert r'\udcff.png' in shown.out
    expected = sorted([*good, 'linked.png'])
    assert files(out / 'pictures') == expected
    assert len(report['predictions']) == len(expected)
    inside = [n for n in files(tmp_path) if not n.startswith('out/')]
    assert inside == before
    assert not any(name.endswith('.tmp') for name in files(out))


def test_own_pictures_are_not_predicted(case, tmp_path):
    save(tmp_path / 'a.png')
    for _ in range(2):
        assert predict(case, tmp_path, '--out', tmp_path) == 0
        assert len(read(tmp_path)['predictions']) == 1


def test_out_that_would_replace_the_images(case, tmp_path):
    path = save(tmp_path / 'pictures' / 'deep' / 'a.png')
    content = path.read_bytes()
    for source in (path, path.parent, path.parent.parent):
        with pytest.raises(ValueError, match='give another --out'):
            predict(case, source, '--out', tmp_path)
    assert path.read_bytes() == content


def test_links_in_out_are_not_followed(case, tmp_path):
    save(tmp_path / 'in' / 'sub' / 'a.png')
    outside = tmp_path / 'outside'
    outside.mkdir()
    (tmp_path / 'out' / 'pictures').mkdir(parents=True)
    (tmp_path / 'out' / 'pictures' / 'sub').symlink_to(outside)
    with pytest.raises(ValueError, match='give another --out'):
        predict(case, tmp_path / 'in', '--out', tmp_path / 'out')
    assert files(outside) == []


def test_the_tool_itself(case, tmp_path):
    """One process from the shell: statuses, and an ASCII terminal."""
    save(tmp_path / 'in' / 'ü.png')
    environment = {**os.environ, 'PYTHONIOENCODING': 'ascii'}
    command = [sys.executable, TOOL, *case, tmp_path / 'in', '--topk', '5']
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert r'\xfc.png' in done.stdout
    assert r't\xfcv [x]' in done.stdout
