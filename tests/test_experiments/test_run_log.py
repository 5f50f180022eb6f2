"""The log of a training is read as it was written, resumed or cut short."""

import json
import re

import pytest

from ltml_mm.experiments.log_curves import read_log

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
    run = read_log(str(tmp_path))
    assert len(run.curves['loss']) == 4
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
