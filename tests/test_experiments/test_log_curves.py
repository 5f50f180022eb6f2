"""What a training logs is in TensorBoard and in the picture of its log."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from tiny_training import make_config, write_data

from ltml_mm.apis import train as training
from ltml_mm.experiments.log_curves import RUN_STYLES, draw, main
from ltml_mm.experiments.run_log import RunLog, read_run

TERMS = {'uniform.loss_cls', 'rebalanced.loss_cls', 'loss_consistency'}
AGREEMENT = {'agreement/rms_difference', 'agreement/correlation'}
METRICS = {
    f'multi-label/{branch}mAP{group}'
    for branch in ('', 'uniform/', 'rebalanced/')
    for group in ('', '_head', '_medium', '_tail')
}


@pytest.fixture(scope='module')
def trained(tmp_path_factory, quick):
    """Three epochs of three steps, every step logged."""
    folder = tmp_path_factory.mktemp('logged')
    work_dir = folder / 'run'
    config = make_config(write_data(folder / 'data'), work_dir)
    config.default_hooks.logger.interval = 1
    config.val_evaluator = dict(
        type='GroupedAveragePrecision', branches=True, head=5, tail=2
    )
    sections = config.to_dict().items()
    text = '\n'.join(f'{name} = {value!r}' for name, value in sections)
    (folder / 'tiny.py').write_text(text)
    training.main([str(folder / 'tiny.py'), '--tensorboard'])
    return work_dir


def records(work_dir):
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines(figure):
    """The drawn data by run and name."""
    return {
        line.get_gid(): (line.get_xdata(), line.get_ydata(), line)
        for axes in figure.axes
        for line in axes.get_lines()
    }


def test_tensorboard_shows_what_the_json_log_holds(trained):
    pytest.importorskip('tensorboard', reason='tensorboard is not installed')
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    (folder,) = trained.glob('*/vis_data')
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()['scalars']
    assert set(tags) >= TERMS | AGREEMENT | METRICS
    for name in (TERMS | AGREEMENT | METRICS) & set(tags):
        logged = {r['step']: r[name] for r in records(trained) if name in r}
        shown = {event.step: event.value for event in events.Scalars(name)}
        assert shown == pytest.approx(logged, rel=1e-6), name
        assert len(shown) == (3 if name in METRICS else 9)


def test_the_picture_holds_the_log(trained):
    drawn = lines(draw([read_run(f'mine={trained}')]))
    names = {gid.removeprefix('mine:') for gid in drawn}
    assert names == TERMS | AGREEMENT | METRICS | {'loss'}
    log = records(trained)
    for name in names:
        x, y, line = drawn[f'mine:{name}']
        own = [r for r in log if name in r]
        np.testing.assert_array_equal(y, [r[name] for r in own])
        places = [r['step'] if name in METRICS else r['step'] / 3 for r in own]
        np.testing.assert_allclose(x, places)
        title = line.axes.get_title(loc='left')
        if name.startswith('multi-label/uniform'):
            assert title == 'mAP in %, uniform branch'
        elif 'loss' in name:
            assert title.startswith('terms of the loss')
            assert line.axes.get_yscale() == 'log'


def run_log(name, unit='epoch', **values):
    train = {key: {1: value, 2: value / 2} for key, value in values.items()}
    nothing = {1: float('nan'), 2: float('nan')}
    val = {'multi-label/mAP': {1: 60, 2: 70}, 'multi-label/mAP_tail': nothing}
    return RunLog(name, unit, train, val)


def test_runs_differ_in_style_and_terms_in_colour():
    off = dict(loss_consistency=0.0)
    runs = [
        run_log('a', loss=2.0, **off),
        run_log('b', loss=3.0, extra_loss=1),
    ]
    figure = draw(runs)
    drawn = {gid: line for gid, (_, _, line) in lines(figure).items()}
    # A term that is 0 and a group without a class have no curve.
    names = {'loss', 'multi-label/mAP'}
    assert set(drawn) == {f'{r}:{n}' for r in 'ab' for n in names} | {
        'b:extra_loss'
    }
    for name in names:
        a, b = drawn[f'a:{name}'], drawn[f'b:{name}']
        assert a.get_color() == b.get_color()
        assert a.get_linestyle() != b.get_linestyle()
    colours = [drawn[f'b:{n}'].get_color() for n in ('loss', 'extra_loss')]
    assert colours[0] != colours[1]
    texts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert texts == ['a', 'b']
    assert len(figure.axes) == 2


@pytest.mark.parametrize(
    ('runs', 'message'),
    [
        ([run_log('a'), run_log('a')], 'names of their own'),
        ([run_log('a'), run_log('b', 'step')], 'a by epoch, b by step'),
        ([RunLog('a', 'epoch', {'lr': {1: 0.1}}, {})], 'neither a loss nor'),
        ([run_log(str(i)) for i in range(len(RUN_STYLES) + 1)], '5 runs'),
    ],
)
def test_runs_that_do_not_fit_together(runs, message):
    with pytest.raises(ValueError, match=message):
        draw(runs)


def test_the_tool_writes_a_picture_and_prints_last_values(
    trained, tmp_path, capsys
):
    out = tmp_path / 'curves.png'
    main([f'mine={trained}', '--out', str(out)])
    with Image.open(out) as image:
        assert np.asarray(image.convert('L')).std() > 5
    log = records(trained)
    printed = capsys.readouterr().out
    for name, record in (('loss_consistency', log[-2]), ('loss', log[-2])):
        value = re.escape(f'{record[name]:.4g}')
        assert re.search(rf'^\| {name} *\| *{value} \|$', printed, re.M)


def test_tensorboard_is_one_backend_more(tmp_path, monkeypatch):
    config = tmp_path / 'plain.py'
    config.write_text("work_dir = 'unused'\nvisualizer = None\n")
    options = training.parse_args([str(config), '--tensorboard'])
    backends = training.training_config(options).visualizer.vis_backends
    kinds = [backend['type'] for backend in backends]
    assert kinds == ['LocalVisBackend', 'TensorboardVisBackend']
    monkeypatch.setattr(training, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match='pip install tensorboard'):
        training.training_config(options)
