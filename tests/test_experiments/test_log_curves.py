"""What a training logs is in TensorBoard and in the picture of its log."""

import numpy as np
import pytest
from PIL import Image
from tiny_training import make_config, read_scalars, write_data

from ltml_cli import parse
from ltml_mm.apis import train as training
from ltml_mm.experiments.log_curves import (
    RUN_STYLES,
    RunLog,
    draw,
    main,
    read_log,
)

TERMS = {'uniform.loss_cls', 'rebalanced.loss_cls', 'loss_consistency'}
AGREEMENT = {'agreement/rms_difference', 'agreement/correlation'}
METRICS = {
    f'multi-label/{branch}mAP{group}'
    for branch in ('', 'uniform/', 'rebalanced/')
    for group in ('', '_head', '_medium', '_tail')
}
LOGGED = TERMS | AGREEMENT | METRICS


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
    config.dump(folder / 'tiny.py')
    training.main([str(folder / 'tiny.py'), '--tensorboard'])
    return work_dir


def logged(work_dir, name):
    """The logged values of a name by step, or by epoch for a metric."""
    records = read_scalars(work_dir).items()
    return {step: r[name] for (_, step), r in records if name in r}


def lines(figure):
    """The drawn lines by run and name, those without a point left out."""
    return {
        line.get_gid(): line
        for axes in figure.axes
        for line in axes.get_lines()
        if len(line.get_xdata())
    }


def test_tensorboard_shows_what_the_json_log_holds(trained):
    pytest.importorskip('tensorboard', reason='tensorboard is not installed')
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    (folder,) = trained.glob('*/vis_data')
    events = EventAccumulator(str(folder))
    events.Reload()
    assert set(events.Tags()['scalars']) >= LOGGED
    for name in LOGGED:
        shown = {event.step: event.value for event in events.Scalars(name)}
        assert shown == pytest.approx(logged(trained, name), rel=1e-6), name
        assert len(shown) == (3 if name in METRICS else 9)


def test_the_picture_holds_the_log(trained, tmp_path):
    drawn = lines(draw([read_log(f'mine={trained}')]))
    names = {gid.removeprefix('mine:') for gid in drawn}
    assert names == LOGGED | {'loss'}
    for name in names:
        line = drawn[f'mine:{name}']
        steps, values = zip(*logged(trained, name).items(), strict=True)
        assert (line.get_ydata() == values).all()
        length = 1 if name in METRICS else 3
        np.testing.assert_allclose(line.get_xdata() * length, steps)
        title = line.axes.get_title(loc='left')
        group = 'terms of the loss' if 'loss' in name else name.split('_')[0]
        assert title.startswith(group)
    main([f'mine={trained}', '--out', str(tmp_path / 'curves.png')])
    with Image.open(tmp_path / 'curves.png') as image:
        assert np.asarray(image.convert('L')).std() > 5


def run_log(name, unit='epoch', **values):
    curves = {key: {1: value, 2: value / 2} for key, value in values.items()}
    curves['multi-label/mAP'] = {1: 60, 2: 70}
    curves['multi-label/mAP_tail'] = {1: float('nan'), 2: float('nan')}
    return RunLog(name, unit, curves)


def test_runs_differ_in_style_and_terms_in_colour():
    runs = [
        run_log('a', loss=2.0, loss_consistency=0.0),
        run_log('b', loss=3.0, extra_loss=1),
    ]
    figure = draw(runs)
    drawn = lines(figure)
    # A term that is 0 and a group without a class have no curve.
    names = {'loss', 'multi-label/mAP'}
    assert {*drawn} == {f'{r}:{n}' for r in 'ab' for n in names} | {
        'b:extra_loss'
    }
    for name in names:
        a, b = drawn[f'a:{name}'], drawn[f'b:{name}']
        assert a.get_color() == b.get_color()
        assert a.get_linestyle() != b.get_linestyle()
    colours = [drawn[f'b:{n}'].get_color() for n in ('loss', 'extra_loss')]
    assert colours[0] != colours[1]
    texts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert texts == ['a', 'b', 'loss', 'extra_loss', 'all classes']


@pytest.mark.parametrize(
    ('runs', 'message'),
    [
        ([run_log('a'), run_log('a')], 'names of their own'),
        ([run_log('a'), run_log('b', 'step')], 'a by epoch, b by step'),
        ([RunLog('a', 'epoch', {'lr': {1: 0.1}})], 'neither a loss nor'),
        ([run_log(str(i)) for i in range(len(RUN_STYLES) + 1)], '5 runs'),
    ],
)
def test_runs_that_do_not_fit_together(runs, message):
    with pytest.raises(ValueError, match=message):
        draw(runs)


def test_tensorboard_has_to_be_installed(tmp_path, monkeypatch):
    config = tmp_path / 'plain.py'
    config.write_text("work_dir = 'unused'\n")
    options = parse('train', [str(config), '--tensorboard'])
    monkeypatch.setattr(training, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match='pip install tensorboard'):
        training.training_config(options)
