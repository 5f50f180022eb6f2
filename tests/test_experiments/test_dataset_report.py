from __future__ import annotations

import csv
import io
import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib import style
from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS
from PIL import Image

from ltml_mm.apis.cli import run_tool
from ltml_mm.apis.model import class_info
from ltml_mm.datasets import ClassAwareMultiLabelSampler, LabelTable
from ltml_mm.experiments.dataset_figures import draw_classes
from ltml_mm.experiments.dataset_report import (
    build_report,
    image_table,
    main,
    markdown,
)
from ltml_mm.experiments.dataset_summary import (
    class_aware_probabilities,
    read_summary,
)
from ltml_mm.experiments.drawing import STYLE

SHARED = Path(__file__).parents[3] / 'shared' / 'data'
FILES = {'report.md', 'report.json', 'images.csv', 'classes.png'}
CONFIG = """
train_dataloader = dict(
    batch_size=2,
    sampler=dict(
        type='TwoStreamSampler',
        streams=dict(
            plain=dict(type='UniformSampler'),
            rebalanced=dict(type='ClassAwareMultiLabelSampler'),
        ),
        epoch_length='rebalanced',
    ),
    dataset=dict(
        type='TwoStreamDataset',
        dataset=dict(
            type='LongTailMultiLabelDataset',
            ann_file='train.json',
            data_root={root!r},
            pipeline=[dict(type='LoadImageFromFile')],
        ),
    ),
)
val_evaluator = [dict(type='GroupedAveragePrecision', head=10, tail=3)]
"""


def make_rows(num_images=60, num_classes=7, seed=0):
    """Long-tailed labels; class 1 and the first image have none."""
    rng = np.random.default_rng(seed)
    chances = 0.6 / np.arange(1, num_classes + 1)
    labels = rng.random((num_images, num_classes)) < chances
    labels[:, 1] = labels[0] = False
    labels[1, num_classes - 1] = True
    return [np.flatnonzero(row).tolist() for row in labels]


def write_annotations(path, rows, classes, **metainfo):
    path.parent.mkdir(parents=True, exist_ok=True)
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
    return write_annotations(tmp_path / 'train.json', make_rows(), names)


@pytest.fixture
def config(annotations):
    path = annotations.with_name('config.py')
    path.write_text(CONFIG.format(root=str(annotations.parent)))
    return path


def published(path):
    """Reads ``id class class ...`` lines of the reference data."""
    if not path.is_file():
        pytest.skip(f'no reference data at {path}')
    return [list(map(int, r.split()[1:])) for r in path.open()]


def test_published_figures_of_voc_lt(tmp_path):
    rows = published(SHARED / 'voc_lt_train.txt')
    names = json.loads((SHARED / 'class_names.json').read_text())['voc']
    path = write_annotations(tmp_path / 'train.json', rows, names)
    report = build_report(read_summary(path))
    uniform = report['streams']['uniform']
    aware = report['streams']['class-aware']
    assert report['groups'] == {'head': 6, 'medium': 6, 'tail': 8}
    assert uniform['draws_an_epoch'] == aware['draws_an_epoch'] == 3875
    for figures_of, share, exposure, size in [
        (uniform, 67.9, 193.8, 1142),
        (aware, 76.8, 15.3, 274),
    ]:
        seen, name = figures_of['most_seen']
        assert name == 'person'
        assert round(100 * seen, 1) == share
        assert round(figures_of['exposure'] + 1e-9, 1) == exposure
        assert round(figures_of['effective_sample_size']) == size


def test_class_aware_probabilities_equal_exact_fractions():
    rows = make_rows()
    counts = [sum(k in row for row in rows) for k in range(7)]
    present = sum(n > 0 for n in counts)
    expected = [
        sum((Fraction(1, n) for k in row if (n := counts[k])), Fraction())
        / present
        for row in rows
    ]
    assert sum(expected) == 1
    actual = class_aware_probabilities(LabelTable.from_lists(rows))
    np.testing.assert_allclose(actual, list(map(float, expected)), rtol=1e-12)


BOUNDED = "dict(type='GroupedAveragePrecision', head=9, tail=5)"


@pytest.mark.parametrize(
    'evaluators',
    [
        f'val_evaluator = {BOUNDED}',
        f'test_evaluator = [dict(type="AveragePrecision"), {BOUNDED}]',
        f'test_evaluator = dict(type="Evaluator", metrics=[{BOUNDED}])',
    ],
)
def test_groups_are_those_of_predictions(config, evaluators):
    config.write_text(f'{config.read_text()}\n{evaluators}\n')
    summary = read_summary(config)
    assert (summary.head, summary.tail) == (9, 5)
    classes = class_info(Config.fromfile(config), summary.dataset.metainfo)
    reported = build_report(summary)['classes']
    assert [c['group'] for c in classes] == [c['group'] for c in reported]


def test_expectation_is_what_the_sampler_draws_on_average(annotations):
    summary = read_summary(annotations)
    sampler = ClassAwareMultiLabelSampler(summary.dataset, 40, seed=1)
    draws = [sampler.order(epoch, 40) for epoch in range(2000)]
    counted = np.bincount(np.concatenate(draws), minlength=60) / 80000
    expected = summary.draws['class-aware'].probabilities
    # Whole cycles vary less than independent draws: five sigma is wide.
    sigma = np.sqrt(expected * (1 - expected) / 80000)
    assert (np.abs(counted - expected) <= 5 * sigma).all()


def test_report_equals_loops_over_the_labels(annotations):
    rows = make_rows()
    report = build_report(read_summary(annotations))
    for a in range(7):
        entry = report['classes'][a]
        assert entry['images'] == sum(a in row for row in rows)
        for b in range(7):
            both = sum(a in row and b in row for row in rows)
            assert report['cooccurrence'][a][b] == both
        for stream, draws in entry['draws'].items():
            length = report['streams'][stream]['draws_an_epoch']
            assert draws['expected'] == pytest.approx(draws['share'] * length)
    lengths = [len(row) for row in rows]
    assert report['labels_per_image'] == [
        lengths.count(n) for n in range(max(lengths) + 1)
    ]
    assert report['images_without_label'] == lengths.count(0) > 0
    assert not report['groups_from_other_counts']
    both = [sum(0 in row and b in row for row in rows) for b in range(1, 7)]
    partner = report['classes'][1 + both.index(max(both))]['name']
    assert f'| {partner} ({max(both)}) ' in markdown(report)


def test_image_table_adds_up_to_the_classes_and_the_epoch(annotations):
    summary = read_summary(annotations)
    report = build_report(summary)
    rows = list(csv.DictReader(io.StringIO(image_table(summary))))
    assert [r['path'] for r in rows] == [f'no_such_{i}.jpg' for i in range(60)]
    for stream, entry in report['streams'].items():
        for kind in ('expected', 'counted'):
            draws = [float(r[f'{stream} {kind}']) for r in rows]
            assert sum(draws) == pytest.approx(
                entry['draws_an_epoch'], rel=1e-4
            )
            for of_class in report['classes']:
                seen = sum(
                    n
                    for n, r in zip(draws, rows, strict=True)
                    if of_class['name'] in r['labels'].split(';')
                )
                assert seen == pytest.approx(
                    of_class['draws'][stream][kind], rel=1e-4
                )


def test_config_gives_streams_and_groups_without_images(config):
    summary = read_summary(config)
    assert list(summary.draws) == ['plain', 'rebalanced']
    assert (summary.head, summary.tail) == (10, 3)
    assert summary.draws['plain'].length == summary.draws['rebalanced'].length
    longer = read_summary(
        config, {'train_dataloader.sampler.epoch_length': 500}
    )
    assert longer.draws['plain'].counted.sum() == 500


def test_samplers_of_one_stream(config):
    key = 'train_dataloader.sampler'
    delete = {'_delete_': True}
    default = {'type': 'DefaultSampler', 'shuffle': True}
    draws = read_summary(config, {key: default | delete}).draws
    assert list(draws) == ['DefaultSampler']
    assert draws['DefaultSampler'].exact
    assert (draws['DefaultSampler'].counted == 1).all()
    # One that never ends, and of which no closed form is known.
    endless = {'type': 'InfiniteSampler', 'shuffle': True}
    draws = read_summary(config, {key: endless | delete}).draws
    assert not draws['InfiniteSampler'].exact
    assert draws['InfiniteSampler'].counted.sum() == 60
    assert draws['InfiniteSampler'].probabilities.sum() == pytest.approx(1)


def test_a_sampler_must_draw_indices_of_images(config, monkeypatch):
    options = {'train_dataloader.sampler': {'type': 'Odd', '_delete_': True}}
    for drawn in ([{'uniform': 1}], [60], []):
        monkeypatch.setitem(
            DATA_SAMPLERS.module_dict, 'Odd', lambda drawn=drawn, **_: drawn
        )
        with pytest.raises(ValueError, match='indices of the 60 images'):
            read_summary(config, options)


def test_declared_training_counts_make_the_groups(tmp_path):
    path = write_annotations(
        tmp_path / 'test.json',
        [[0], [0, 1], [1]],
        'xy',
        class_counts=[19, 100],
        num_train_images=119,
    )
    report = build_report(read_summary(path))
    assert [c['group'] for c in report['classes']] == ['tail', 'head']
    assert [c['images'] for c in report['classes']] == [2, 2]
    assert report['groups_from_other_counts']


def test_writes_the_same_bytes_twice(annotations, tmp_path, capsys):
    out = tmp_path / 'deep' / 'out'
    main([str(annotations), '--out', str(out)])
    written = {p.name: p.read_bytes() for p in out.iterdir()}
    assert set(written) == FILES
    main([str(annotations), '--out', str(out)])
    assert {p.name for p in out.iterdir()} == FILES
    for name, content in written.items():
        assert (out / name).read_bytes() == content, name
        if name.endswith('.png'):
            Image.open(io.BytesIO(content)).verify()
    text = written['report.md'].decode()
    assert text.splitlines()[2] in capsys.readouterr().out
    for block in text.split('\n\n'):
        rows = [r for r in block.splitlines() if r.startswith('|')]
        # A bar in a class name must not open another column.
        assert len({r.replace(r'\|', '').count('|') for r in rows}) <= 1
    assert '](classes.png)' in text


@pytest.mark.parametrize('num_classes', [20, 80, 400])
def test_class_names_are_whole_and_do_not_overlap(tmp_path, num_classes):
    rows = [list(range(i % num_classes + 1)) for i in range(2 * num_classes)]
    names = [f'a class called {k}' for k in range(num_classes)]
    path = write_annotations(tmp_path / 'train.json', rows, names)
    report = build_report(read_summary(path))
    with style.context(['default', STYLE]):
        figure = draw_classes.__wrapped__(report)
        figure.draw_without_rendering()
        labels = [t.label1 for t in figure.axes[0].yaxis.get_major_ticks()]
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) >= min(num_classes, 200)
        for one, other in pairwise(boxes):
            assert not one.overlaps(other)
        canvas = figure.bbox
        for box in boxes:
            assert canvas.x0 <= box.x0
            assert box.x1 <= canvas.x1
            assert canvas.y0 <= box.y0
            assert box.y1 <= canvas.y1


BROKEN = {
    'missing.py': (None, 'config or annotation file not found'),
    'other.json': ('{"images": []}', 'not an annotation file'),
    'empty.json': (
        '{"metainfo": {"classes": ["x"]}, "data_list":'
        ' [{"img_path": "a.jpg", "gt_label": []}]}',
        'have labels of 0 classes',
    ),
    'raises.py': ('model = 1 / 0', 'ZeroDivisionError'),
    'bare.py': ('model = dict()', 'no train_dataloader'),
}


@pytest.mark.parametrize('name', BROKEN)
def test_errors_name_the_file_and_write_nothing(
    tmp_path, name, capsys, monkeypatch
):
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    content, message = BROKEN[name]
    path, out = tmp_path / name, tmp_path / 'out'
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as raised:
        run_tool(lambda: main([str(path), '--out', str(out)]))
    error = capsys.readouterr().err
    assert raised.value.code == 1
    assert message in error
    assert name in error
    assert not out.exists()


def test_a_mistyped_dataset_is_named_in_one_line(
    config, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    config.write_text(config.read_text().replace('LongTailMulti', 'LongTial'))
    with pytest.raises(SystemExit):
        run_tool(lambda: main([str(config), '--out', str(tmp_path / 'out')]))
    error = capsys.readouterr().err
    assert 'LongTialLabelDataset' in error
    assert error.count('\n') == 1


def test_refuses_what_it_cannot_use(annotations, tmp_path):
    with pytest.raises(ValueError, match='is not a folder'):
        main([str(annotations), '--out', str(annotations)])
    with pytest.raises(ValueError, match='overrides a config'):
        read_summary(annotations, {'a': 1})
