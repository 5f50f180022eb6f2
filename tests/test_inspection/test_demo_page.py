import io
import logging
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from mmengine.logging import MMLogger
from PIL import Image
from report_case import NAMES, write_networks

from ltml_mm.apis import MultiLabelInferencer
from ltml_mm.datasets.images import UnreadableImageError
from ltml_mm.inspection import demo_page
from ltml_mm.inspection.attention import has_grad_cam
from ltml_mm.inspection.demo_page import BEST, Trial, check_size, serve


@pytest.fixture(scope='module')
def trial(networks):
    return Trial(MultiLabelInferencer(*networks[0], 'cpu'), 8)


@pytest.fixture(scope='module')
def server(trial, tmp_path_factory):
    pytest.importorskip('gradio', reason='needs gradio')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp('uploads')
    page = serve(trial, '127.0.0.1', port, str(folder))
    yield page.local_url, folder
    page.close()


@pytest.fixture(scope='module')
def pictures(networks):
    folder = os.path.dirname(networks[0][0])
    return [os.path.join(folder, 'data', f'{n}.png') for n in (3, 7)]


def fired(page):
    """The labels of each picture, as the page shows them."""
    return [
        article.locator('.row.fires').evaluate_all(
            'all => all.map(one => one.dataset.class)'
        )
        for article in page.locator('article').all()
    ]


def drop(page, *files):
    page.set_input_files('input[type=file]', files)
    page.wait_for_selector('.ltml article, .ltml .trouble')


def test_pictures_in_labels_out(server, networks, pictures, open_page):
    address, folder = server
    page = open_page(address)
    broken = {
        'name': 'broken <b>.png',
        'mimeType': 'image/png',
        'buffer': b'\x89PNG no picture',
    }
    whole = [
        {
            'name': os.path.basename(path),
            'mimeType': 'image/png',
            'buffer': Path(path).read_bytes(),
        }
        for path in pictures
    ]
    drop(page, *whole, broken)
    records = MultiLabelInferencer(*networks[0], 'cpu')(pictures)
    expected = [{r['name'] for r in record['labels']} for record in records]
    assert any(expected)
    found = fired(page)
    assert list(map(set, found)) == expected
    assert [len(row) for row in found] == list(map(len, expected))
    for article, record in zip(
        page.locator('article').all(), records, strict=True
    ):
        rows = article.locator('.row').all()
        assert len(rows) >= len(record['labels'])
        for row in rows:
            score = record['scores'][row.get_attribute('data-class')]
            shown = float(row.locator('.value').inner_text())
            assert shown == pytest.approx(score, abs=0.0051)
            assert 'uniform' in row.inner_text()
        assert article.locator('.near li').count() == 5
        if has_grad_cam():
            assert article.locator('.heat').count() == 2
    trouble = page.locator('.trouble').all_inner_texts()
    assert len(trouble) == 1
    assert trouble[0].startswith('broken')
    assert 'was left out: not an image' in trouble[0]
    # The nearest training picture of a training picture is itself.
    nearest = page.locator('.near li').first.inner_text()
    assert 'cosine 1.00' in nearest
    # Nothing is left, nothing is told, nobody else is asked.
    assert [p for p in folder.rglob('*') if p.suffix] == []
    assert str(folder) not in page.content()
    assert '/tmp/' not in page.content()
    assert page.troubles == []


def test_sliders_and_the_choice_of_a_class(
    server, networks, pictures, open_page
):
    address, _ = server
    page = open_page(address, 390)
    drop(page, *pictures)
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    records = MultiLabelInferencer(*networks[0], 'cpu')(pictures)
    scores = np.array([list(record['scores'].values()) for record in records])
    number = page.get_by_label('number input').first
    for value in (0.05, 0.95):
        number.fill(str(value))
        number.press('Enter')
        page.wait_for_function(
            'n => document.querySelectorAll(".row.fires").length === n',
            arg=int((scores >= value).sum()),
            timeout=30_000,
        )
    assert (scores >= 0.05).sum() > (scores >= 0.95).sum()
    if has_grad_cam():
        box = page.get_by_label('Grad-CAM of')
        box.fill(NAMES[2])
        box.press('Enter')
        page.wait_for_selector(f'.heat[aria-label$="{NAMES[2]}"]')
    page.get_by_role('button', name='Clear').click()
    page.wait_for_selector('.ltml .empty')


def test_thresholds_move_together(trial, monkeypatch):
    own = np.array([0.2, 0.5, 0.4, 0.05, 0.9])
    monkeypatch.setattr(trial, 'thresholds', own)
    names = list(trial.groups)
    monkeypatch.setattr(trial, 'start', dict.fromkeys(names, 0.4))
    np.testing.assert_allclose(trial.moved([0.4] * len(names)), own)
    moved = trial.moved([0.7] * len(names))
    odds = (moved / (1 - moved)) / (own / (1 - own))
    np.testing.assert_allclose(odds, (0.7 / 0.3) / (0.4 / 0.6))


def test_uploads_are_bounded(trial, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_page, 'MAX_FILES', 2)
    monkeypatch.setattr(demo_page, 'MAX_PICTURES', 3)
    files = []
    for number in range(4):
        path = tmp_path / str(number) / 'picture.png'
        path.parent.mkdir()
        path.write_bytes(Path(pictures[0]).read_bytes())
        files.append(str(path))
    found, troubles = trial.take(files, [{'name': 'kept'}] * 2)
    assert [one['name'] for one in found] == ['picture.png'] * 2 + ['kept']
    assert troubles == ['2 files were left out: at most 2 at a time.']
    assert list(tmp_path.iterdir()) == []


def test_copies_in_one_drop(trial, pictures, tmp_path):
    """Gradio keeps files of one content in one folder."""
    files = [tmp_path / 'up' / name for name in ('a.png', 'b.png')]
    files[0].parent.mkdir()
    for path in files:
        path.write_bytes(Path(pictures[0]).read_bytes())
    gone = tmp_path / 'elsewhere' / 'gone.png'
    found, troubles = trial.take([*map(str, files), str(gone)], [])
    assert [one['name'] for one in found] == ['a.png', 'b.png']
    assert troubles == ['gone.png is gone: drop it again.']
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_behind(networks, monkeypatch, capsys):
    """A SIGTERM ends the page, and removes the folder of uploads."""
    pytest.importorskip('gradio', reason='needs gradio')
    seen = []

    class Page:
        local_url = 'http://127.0.0.1:7860/'

        def block_thread(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

        def close(self):
            seen.append('closed')

    def fake(trial, host, port, folder):
        seen.extend([host, port, folder])
        (Path(folder) / 'picture.png').write_bytes(b'')
        return Page()

    monkeypatch.setattr(demo_page, 'serve', fake)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit):
            demo_page.main([*networks[0], '--train-images', '0'])
    finally:
        signal.signal(signal.SIGTERM, before)
    host, port, folder, closed = seen
    assert (host, port, closed) == ('127.0.0.1', 7860, 'closed')
    assert not os.path.exists(folder)
    assert 'Serving on http://127.0.0.1:7860/' in capsys.readouterr().out


def test_without_gradio(networks, monkeypatch):
    monkeypatch.setattr(demo_page, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "ltml_mm\[web\]"'):
        demo_page.main(networks[0])


def test_large_files_are_refused_before_they_are_decoded(
    tmp_path, monkeypatch
):
    path = tmp_path / 'large.png'
    Image.new('1', (8000, 7000)).save(path)
    with pytest.raises(UnreadableImageError, match='50 million pixels'):
        check_size(str(path))
    monkeypatch.setattr(demo_page, 'MAX_FILE_BYTES', 100)
    with pytest.raises(UnreadableImageError, match='the file is too large'):
        check_size(str(path))


def test_without_training_pictures_and_without_branches(
    tmp_path, networks, capsys
):
    _, config = write_networks(tmp_path)
    (tmp_path / 'data' / 'train.json').unlink()
    meta = MultiLabelInferencer(*networks[1], 'cpu').class_info
    options = {
        'test_dataloader.dataset.metainfo': {
            'classes': NAMES,
            'class_counts': [one['train_images'] for one in meta],
        },
        'train_dataloader.dataset.dataset.metainfo': {'classes': NAMES},
    }
    inferencer = MultiLabelInferencer(
        config, networks[1][1], 'cpu', cfg_options=options
    )
    trial = Trial(inferencer, 8)
    assert 'no nearest training pictures' in capsys.readouterr().err
    buffer = io.BytesIO()
    Image.new('RGB', (40, 30), 'red').save(buffer, 'PNG')
    path = tmp_path / 'up' / 'red & <i>.png'
    path.parent.mkdir()
    path.write_bytes(buffer.getvalue())
    found, troubles = trial.take([str(path)], [])
    assert not troubles
    shown = trial.render(found, BEST, [*trial.start.values()])
    assert 'red &amp; &lt;i&gt;.png' in shown
    assert 'Nearest training pictures' not in shown
    assert shown.count('looks for') == has_grad_cam()
    assert 'not at hand' in trial.render([], BEST, [*trial.start.values()])


def test_a_log_goes_on_where_the_server_closed_it(tmp_path, monkeypatch):
    pytest.importorskip('gradio', reason='needs gradio')
    file = tmp_path / 'run.log'
    log = logging.FileHandler(file, 'w')

    class Page:
        def queue(self, **_):
            return self

        def launch(self, **_):
            log.close()

    monkeypatch.setenv('GRADIO_TEMP_DIR', '')  # which serve sets
    monkeypatch.setattr(demo_page, 'build_page', lambda *_: Page())
    logger = MMLogger.get_current_instance()
    logger.addHandler(log)
    try:
        logger.error('before')
        serve(None, '127.0.0.1', 0, str(tmp_path))
        logger.error('after')
    finally:
        logger.removeHandler(log)
        log.close()
    assert 'before' in file.read_text()
    assert 'after' in file.read_text()
