import io
import json
import warnings
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib import style
from PIL import Image
from tiny_training import make_config

from ltml_mm import datasets
from ltml_mm.experiments.dataset_report import (
    build_report,
    draw_classes,
    draw_probabilities,
    main,
    markdown,
)
from ltml_mm.experiments.drawing import STYLE, font_families
from ltml_mm.inspection import pictures

SHARED = Path(__file__).parents[3] / 'shared' / 'data'
# Long-tailed; class 1 and the first image have none.
LABELS = np.random.default_rng(0).random((60, 7)) < 0.6 / np.arange(1, 8)
LABELS[:, 1] = LABELS[0] = False
LABELS[1, 6] = True
ROWS = [np.flatnonzero(row).tolist() for row in LABELS]


def write_annotations(folder, rows, classes, **metainfo):
    path = folder / 'train.json'
    data_list = [
        {'img_path': f'no_such_{i}.jpg', 'gt_label': row}
        for i, row in enumerate(rows)
    ]
    metainfo['classes'] = list(classes)
    path.write_text(json.dumps({'metainfo': metainfo, 'data_list': data_list}))
    return path


@pytest.fixture
def annotations(tmp_path):
    names = ['a|b', '$x$ $', *'cdef', 'g' * 60]
    return write_annotations(tmp_path, ROWS, names)


@pytest.fixture
def config(annotations):
    own = dict(type='GroupedAveragePrecision', head=9, tail=5)
    cfg = make_config(annotations.parent, annotations.parent)
    cfg.test_evaluator = [dict(type='AveragePrecision'), own]
    cfg.dump(annotations.with_name('config.py'))
    return annotations.with_name('config.py')


def test_published_figures_of_voc_lt(tmp_path):
    if not SHARED.is_dir():
        pytest.skip(f'no reference data at {SHARED}')
    lines = (SHARED / 'voc_lt_train.txt').read_text().splitlines()
    rows = [list(map(int, line.split()[1:])) for line in lines]
    names = json.loads((SHARED / 'class_names.json').read_text())['voc']
    report = build_report(write_annotations(tmp_path, rows, names))
    assert report['groups'] == {'head': 6, 'medium': 6, 'tail': 8}
    person = names.index('person')
    for stream, share, exposure, size in [
        ('uniform', 67.9, 193.8, 1142),
        ('class-aware', 76.8, 15.3, 274),
    ]:
        figures, draws = report['streams'][stream], report['draws'][stream]
        assert figures['draws_an_epoch'] == 3875
        assert round(figures['exposure'] + 1e-9, 1) == exposure
        assert round(figures['effective_sample_size']) == size
        assert max(draws) == draws[person]
        assert round(100 * draws[person] / 3875, 1) == share


def test_class_aware_probabilities_equal_fractions_and_draws(annotations):
    counts = LABELS.sum(0).tolist()
    present = sum(n > 0 for n in counts)
    expected = [
        sum((Fraction(1, counts[k]) for k in row), Fraction()) / present
        for row in ROWS
    ]
    assert sum(expected) == 1
    dataset = datasets.LongTailMultiLabelDataset(str(annotations), pipeline=[])
    sampler = datasets.ClassAwareMultiLabelSampler(dataset, 40, seed=1)
    actual = draw_probabilities(sampler, LABELS)
    np.testing.assert_allclose(actual, list(map(float, expected)), rtol=1e-12)
    draws = [sampler.order(epoch, 40) for epoch in range(2000)]
    counted = np.bincount(np.concatenate(draws), minlength=60) / 80000
    # Whole cycles vary less than independent draws: five sigma is wide.
    sigma = np.sqrt(actual * (1 - actual) / 80000)
    assert (np.abs(counted - actual) <= 5 * sigma).all()


def test_report_equals_loops_over_the_labels(annotations):
    report = build_report(annotations)
    for a in range(7):
        own = [row for row in ROWS if a in row]
        assert report['classes'][a]['images'] == len(own)
        expected = report['streams']['uniform']['draws_an_epoch'] / 60
        drawn = report['draws']['uniform'][a]
        assert drawn == pytest.approx(len(own) * expected)
        for b in range(7):
            assert report['cooccurrence'][a][b] == sum(b in row for row in own)
    assert report['images_without_label'] == ROWS.count([]) > 0
    both = [sum(0 in row and b in row for row in ROWS) for b in range(1, 7)]
    partner = report['classes'][1 + both.index(max(both))]['name']
    assert f'| {partner} ({max(both)}) ' in markdown(report)


def test_config_gives_streams_lengths_and_groups_without_images(config):
    key = 'train_dataloader.sampler.epoch_length'
    report = build_report(config, {key: 500})
    lengths = {k: s['draws_an_epoch'] for k, s in report['streams'].items()}
    assert lengths == {'uniform': 500, 'rebalanced': 500}
    for entry in report['classes']:
        n = entry['images']
        expected = 'head' if n >= 9 else 'medium' if n >= 5 else 'tail'
        assert entry['group'] == expected


@pytest.mark.parametrize('kind', ['DefaultSampler', 'InfiniteSampler'])
def test_other_samplers_are_counted(config, kind):
    sampler = {'type': kind, 'shuffle': True, '_delete_': True}
    report = build_report(config, {'train_dataloader.sampler': sampler})
    # One pass draws every image once, also where the sampler never ends.
    images = [entry['images'] for entry in report['classes']]
    assert report['draws'] == {kind: pytest.approx(images)}


@pytest.mark.parametrize('drawn', [[{'uniform': 1}], [60], []])
def test_a_sampler_must_draw_indices_of_images(drawn):
    with pytest.raises(ValueError, match=r'list must .* of the 60 images'):
        draw_probabilities(drawn, np.ones((60, 7), bool))


def test_declared_training_counts_make_the_groups(tmp_path):
    declared = {'class_counts': [19, 100], 'num_train_images': 119}
    path = write_annotations(tmp_path, [[0], [0, 1], [1]], 'xy', **declared)
    classes = build_report(path)['classes']
    assert [c['group'] for c in classes] == ['tail', 'head']
    assert [c['images'] for c in classes] == [2, 2]


def test_writes_the_same_bytes_twice(annotations, tmp_path):
    out = tmp_path / 'deep' / 'out'
    main([str(annotations), '--out', str(out)])
    written = {p.name: p.read_bytes() for p in out.iterdir()}
    assert {*written} == {'report.md', 'report.json', 'classes.png'}
    main([str(annotations), '--out', str(out)])
    assert {p.name: p.read_bytes() for p in out.iterdir()} == written
    Image.open(io.BytesIO(written['classes.png'])).verify()
    text = written['report.md'].decode()
    for block in text.split('\n\n'):
        rows = [r for r in block.splitlines() if r.startswith('|')]
        # A bar in a class name must not open another column.
        assert len({r.replace(r'\|', '').count('|') for r in rows}) <= 1
    assert '](classes.png)' in text


@pytest.mark.parametrize('num_classes', [20, 400])
def test_class_names_are_whole_and_do_not_overlap(tmp_path, num_classes):
    rows = [list(range(i % num_classes + 1)) for i in range(2 * num_classes)]
    names = [f'a class called {k}' for k in range(num_classes)]
    report = build_report(write_annotations(tmp_path, rows, names))
    with style.context(['default', STYLE]):
        figure = draw_classes(report)
        figure.draw_without_rendering()
        labels = [t.label1 for t in figure.axes[0].yaxis.get_major_ticks()]
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) >= min(num_classes, 200)
        for one, other in pairwise(boxes):
            assert not one.overlaps(other)
        for box in boxes:
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


@pytest.mark.parametrize(
    ('start', 'end'),
    [('a' * 40, 'a' * 10), ('東京都' * 9, ''), ('', 'b' * 40)],
)
def test_sixty_long_names_stay_apart(tmp_path, start, end):
    names = [f'{start}{k:02d}{end}' for k in range(60)]
    rows = [[i % 60, (i + 7) % 60] for i in range(120)]
    report = build_report(write_annotations(tmp_path, rows, names))
    with style.context(['default', STYLE]):
        figure = draw_classes(report)
        with warnings.catch_warnings():
            if font_families(names)[1:] or start[:1] != '東':
                warnings.simplefilter('error')  # a letter without a font
            figure.draw_without_rendering()
        ticks = figure.axes[0].yaxis.get_major_ticks()
        texts = [tick.label1.get_text() for tick in ticks]
        boxes = [tick.label1.get_window_extent() for tick in ticks]
    assert len({*texts}) == 60
    for one, other in pairwise(boxes):
        assert not one.overlaps(other)
    assert all(box.x0 >= figure.bbox.x0 for box in boxes)
    assert figure.axes[0].bbox.width > figure.bbox.width / 3


def test_letters_without_a_font_are_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pictures, '_system_fonts', lambda: [])
    path = write_annotations(tmp_path, [[0], [1]] * 4, ['東京', 'cat'])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        main([str(path), '--out', str(tmp_path / 'out')])
    told = capsys.readouterr().err
    assert 'no font here has the letters 京東: ' in told
    assert 'fonts-noto-cjk' in told


def test_refuses_what_it_cannot_use(annotations, tmp_path):
    with pytest.raises(ValueError, match='overrides a config'):
        build_report(annotations, {'a': 1})
    bare = tmp_path / 'bare.py'
    bare.write_text('model = dict()')
    with pytest.raises(ValueError, match=r'bare\.py: .* no train_dataloader'):
        build_report(bare)
    empty = write_annotations(tmp_path, [[]], 'x')
    with pytest.raises(ValueError, match=r'train\.json: .* of 0 classes'):
        main([str(empty), '--out', str(tmp_path / 'out')])
    assert not (tmp_path / 'out').exists()
