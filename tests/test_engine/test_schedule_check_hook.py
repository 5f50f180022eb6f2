"""A run must outlast its own warm-up."""

import pytest
from engine_runner import make_runner

HOOKS = ['ClassStatisticsHook', 'ScheduleCheckHook']


def warm_up(end, kind='LinearLR', **kwargs):
    kwargs = {'by_epoch': False, 'begin': 0, **kwargs}
    end = {} if end is None else {'end': end}
    return dict(type=kind, **kwargs, **end)


def drops(end, milestone=None, by_epoch=True):
    return dict(
        type='MultiStepLR',
        by_epoch=by_epoch,
        milestones=[end if milestone is None else milestone],
        end=end,
    )


def train(work_dir, schedulers, epochs=3):
    """Two steps an epoch."""
    runner = make_runner(
        work_dir,
        hooks=HOOKS,
        param_scheduler=schedulers,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
    )
    runner.train()
    return runner


@pytest.mark.parametrize('kind', ['LinearLR', 'ConstantLR'])
def test_a_warm_up_as_long_as_the_run_is_fine(tmp_path, kind):
    train(tmp_path, [warm_up(6, kind), drops(3)])


@pytest.mark.parametrize(('milestone', 'by_epoch'), [(2, True), (4, False)])
def test_one_until_the_first_drop_is_refused(tmp_path, milestone, by_epoch):
    end = 3 if by_epoch else 6
    schedule = drops(end, milestone, by_epoch)
    with pytest.raises(ValueError, match=r'takes 4 steps.* drops after 4:'):
        train(tmp_path / 'a', [warm_up(4), schedule])
    train(tmp_path / 'b', [warm_up(3), schedule])


def test_milestones_count_from_the_beginning_of_their_scheduler(tmp_path):
    schedule = {**drops(3, milestone=1), 'begin': 1}
    train(tmp_path / 'a', [warm_up(3), schedule])
    with pytest.raises(ValueError, match='drops after 4'):
        train(tmp_path / 'b', [warm_up(4), schedule])


def test_the_message_says_what_to_write(tmp_path):
    with pytest.raises(ValueError, match='convert_to_iter_based=True') as e:
        train(tmp_path, [warm_up(150), drops(3, milestone=2)])
    assert '1 process(es) with a batch of 4' in str(e.value)


@pytest.mark.parametrize(
    'scheduler',
    [
        # In epochs, it cannot outlast the run by a change of processes.
        warm_up(5, by_epoch=True),
        # It may outlast a run that is cut short.
        warm_up(9),
        None,
        # No end at all: a constant factor, not a warm-up.
        warm_up(None, 'ConstantLR', factor=0.5),
        # Not a warm-up but the schedule itself.
        dict(type='CosineAnnealingLR', T_max=100, by_epoch=False),
    ],
)
def test_other_schedules_are_left_alone(tmp_path, scheduler):
    train(tmp_path, scheduler and [scheduler])


def test_warm_ups_of_several_optimizers_are_seen(tmp_path):
    runner = make_runner(
        tmp_path, hooks=HOOKS, train_cfg=dict(by_epoch=True, max_epochs=3)
    )
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    built = [
        runner.build_param_scheduler([scheduler])[0]
        for scheduler in (warm_up(2), warm_up(99), drops(3, milestone=2))
    ]
    runner.param_schedulers = {'a': built[:1], 'b': built[1:]}
    with pytest.raises(ValueError, match='takes 99 steps'):
        runner.call_hook('before_train')
