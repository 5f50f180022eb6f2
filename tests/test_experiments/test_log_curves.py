"""What a training logs is read as it was written, and drawn."""

import json
import re

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

LENGTH = 25  # steps of an epoch


def step(number):
    epoch = -(-number // LENGTH)
    values = {'lr': 0.1, 'loss': 100.0 + number}
    return {**values, 'epoch': epoch, 'iter': number, 'step': number}


def evaluation(place, value):
    return {'multi-label/mAP': value, 'step': place}


def write(folder, part, records, end='\n'):
    path = folder / f'2026010{part}_120000' / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(json.dumps(r) for r in records) + end)
    return path


def epochs(*numbers):
    """Ten steps between two records: two an epoch, and its evaluation."""
    records = []
    for epoch in numbers:
        begin = (epoch - 1) * LENGTH
        records += [step(begin + 10), step(begin + 20)]
        records.append(evaluation(epoch, 10.0 * epoch))
    return records


def test_one_epoch_ends_with_its_last_record(tmp_path):
    write(tmp_path, 1, epochs(1))
    run = read_log(str(tmp_path))
    assert run.name == tmp_path.name
    assert run.curves['loss'] == {0.5: 110, 1: 120}


def test_a_run_without_epochs(tmp_path):
    # The stock hook gives an evaluation the epoch that began, or the step.
    records = [step(10), step(20), evaluation(0, 1.0)]
    records += [step(30), evaluation(32, 2.0)]
    for record in records:
        record.pop('epoch', None)
    write(tmp_path, 1, records)
    run = read_log(str(tmp_path))
    assert run.unit == 'step'
    assert run.curves['loss'] == {10: 110, 20: 120, 30: 130}
    assert run.curves['multi-label/mAP'] == {20: 1, 32: 2}


def test_a_resumed_part_stands_in_for_what_was_lost(tmp_path):
    # Killed after the third epoch; the checkpoint of the first was whole.
    write(tmp_path, 1, epochs(1, 2, 3))
    again = [
        {**r, 'loss': 0.5} if 'loss' in r else {**r, 'multi-label/mAP': 7.0}
        for r in epochs(2)
    ]
    write(tmp_path, 2, again)
    # A part without a step, as one that failed at once, changes nothing.
    write(tmp_path, 3, [evaluation(0, 99.0)])
    run = read_log(str(tmp_path))
    assert run.curves['loss'] == {0.4: 110, 0.8: 120, 1.4: 0.5, 1.8: 0.5}
    assert run.curves['multi-label/mAP'] == {1: 10, 2: 7}


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path, capsys):
    path = write(tmp_path, 1, epochs(1, 2), end='\n{"lr": 0.1, "lo')
    assert len(read_log(str(tmp_path)).curves['loss']) == 4
    assert f'{path}, line 7: cut short' in capsys.readouterr().err


@pytest.mark.parametrize(
    'line', ['{"lr": 0.1, "lo', '[1, 2]', '{"loss": 1.0}']
)
def test_a_broken_line_is_named(tmp_path, line):
    end = f'\n{line}\n{json.dumps(step(30))}\n'
    path = write(tmp_path, 1, epochs(1)[:2], end)
    message = re.escape(f'{path}, line 3 is no record of a step')
    with pytest.raises(ValueError, match=message):
        read_log(str(tmp_path))


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no log'):
        read_log(f'mine={tmp_path / "missing"}')
    write(tmp_path, 1, [evaluation(0, 1.0)])
    with pytest.raises(ValueError, match='no training step'):
        read_log(str(tmp_path))


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
