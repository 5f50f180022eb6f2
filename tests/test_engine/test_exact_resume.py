"""A run that was stopped and resumed is the run that was not."""

from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from forked import train_ranks
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner, loops
from tiny_training import LABELS, make_config, read_scalars, write_data
from torch.utils.data import DataLoader

from ltml_mm._stack import find_stack
from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.datasets.samplers import UniformSampler
from ltml_mm.engine import ExactResumeHook
from ltml_mm.engine.hooks import exact_resume_hook, resume_state
from ltml_mm.engine.hooks.exact_resume_hook import KEY, check_accumulation
from ltml_mm.engine.hooks.preemption_hook import end_workers

ONEDL = find_stack() == 'onedl'
onedl_only = pytest.mark.skipif(not ONEDL, reason='promised on OneDL only')


class Recorder(Hook):
    """Notes every step's images, as file names and as pixels."""

    def __init__(self):
        self.seen = {}
        self.indices = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        names = {
            stream: [sample.img_path for sample in samples]
            for stream, samples in data_batch['data_samples'].items()
        }
        sums = {k: v.double().sum() for k, v in data_batch['inputs'].items()}
        self.seen[runner.iter] = names, sums
        self.indices[runner.iter] = batch_idx


def train(config, checkpoint=None):
    if checkpoint is not None:
        config.resume, config.load_from = True, str(checkpoint)
    recorder = Recorder()
    runner = Runner.from_cfg(config)
    runner.register_hook(recorder)
    runner.train()
    for loop in (runner.train_loop, runner.val_loop):
        # The garbage collector would take 5 seconds for each of them.
        end_workers(getattr(loop, 'dataloader', None))
    return recorder


def plain(value):
    """Returns a part of a checkpoint, with tensors as dtypes and lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return (value.dtype, value.tolist()) if torch.is_tensor(value) else value


def assert_same(a, b, part=''):
    """Compares parts of two checkpoints bit by bit."""
    same = plain(a) == plain(b)  # apart: pytest would print all of it
    assert same, part


def assert_same_runs(whole, resumed, last, step):
    """Compares weights, optimizer, random states, schedules and logs."""
    a, b = (read_checkpoint(path / last) for path in (whole, resumed))
    assert a.keys() == b.keys()
    for part in a.keys() - {'meta', 'message_hub'}:
        assert_same(a[part], b[part], part)
    names = a['message_hub']['log_scalars'].keys()
    assert names == b['message_hub']['log_scalars'].keys()
    for name in names:
        if not name.endswith('time'):
            left, right = (
                c['message_hub']['log_scalars'][name].data for c in (a, b)
            )
            assert [x.tolist() for x in left] == [x.tolist() for x in right]
    expected = read_scalars(whole)
    found = read_scalars(resumed)
    # Validation steps count epochs.
    assert found.items() <= expected.items()
    for key in expected.keys() - found.keys():
        assert expected[key]['step'] <= step, key


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    # The loop sleeps for two seconds whenever the data begins anew.
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda _: None)


# Checkpoints are written before the validation of their epoch.
PLATEAU = dict(
    type='ReduceOnPlateauLR',
    monitor='multi-label/mAP',
    rule='greater',
    threshold=1000,
    patience=0,
)
AVERAGE = dict(type='EMAHook', momentum=0.1)


@pytest.mark.parametrize(
    ('options', 'stops'),
    [
        (dict(steps=0), {'epoch_1': 3, 'epoch_2': 6}),
        (dict(steps=0, num_workers=4), {'epoch_1': 3}),
        # Inside an epoch.
        (dict(steps=1), {'iter_2': 2, 'iter_3': 3, 'iter_7': 7}),
        (dict(steps=1, num_workers=4), {'iter_4': 4}),
        # By iterations: step 3 ends a pass, step 4 is validated.
        (
            dict(steps=1, by_epoch=False),
            {'iter_3': 3, 'iter_4': 4, 'iter_7': 7},
        ),
        (dict(steps=1, by_epoch=False, num_workers=4), {'iter_4': 4}),
    ],
)
def test_stopped_and_resumed(data, tmp_path, options, stops):
    if options['steps'] and not ONEDL:
        pytest.skip('promised on OneDL only')

    def config(work_dir):
        result = make_config(data, work_dir, **options)
        if options['steps'] == 0:
            result.param_scheduler.append(PLATEAU)
        elif options.get('by_epoch', True):
            result.custom_hooks.append(AVERAGE)
        return result

    whole = tmp_path / 'whole'
    recorder = train(config(whole))
    last = Path((whole / 'last_checkpoint').read_text()).name
    for stop, step in stops.items():
        resumed = tmp_path / stop
        again = train(config(resumed), whole / f'{stop}.pth')
        for name in ('seen', 'indices'):
            expected = getattr(recorder, name)
            rest = {k: v for k, v in expected.items() if k >= step}
            assert getattr(again, name) == rest
        assert_same_runs(whole, resumed, last, step)


@onedl_only
def test_two_processes(data, tmp_path):
    # The statistics of BatchNorm differ between the processes; those of
    # process 1 are compared through the part that the hook saves.
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    file = tmp_path / 'config.py'
    make_config(data, whole, steps=1).dump(file)
    options = ['--cfg-options', 'train_dataloader.batch_size=2']
    assert train_ranks(file, options) == [0, 0]
    make_config(data, resumed, steps=1).dump(file)
    options += ['--resume', str(whole / 'iter_4.pth')]
    assert train_ranks(file, options) == [0, 0]
    assert_same_runs(whole, resumed, 'iter_8.pth', 4)
    ranks = read_checkpoint(whole / 'iter_8.pth')['exact_resume']['ranks']
    assert len(ranks) == 2
    assert any('running_mean' in name for name in ranks[1]['buffers'])


@pytest.fixture(scope='module')
def stopped(data, tmp_path_factory):
    """A run with a checkpoint after each of its 9 steps."""
    work_dir = tmp_path_factory.mktemp('stopped')
    train(make_config(data, work_dir, steps=1))
    return work_dir


def test_validation_leaves_the_training_alone(data, tmp_path, stopped):
    config = make_config(data, tmp_path, steps=0)
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    train(config)
    expected = read_checkpoint(stopped / 'iter_9.pth')
    found = read_checkpoint(tmp_path / 'epoch_3.pth')
    assert_same(expected['state_dict'], found['state_dict'])
    assert_same(
        expected['exact_resume']['ranks'], found['exact_resume']['ranks']
    )


OTHER_RUNS = {
    r'pipeline\.4\.prob: 0\.5 -> 0\.1': {
        'train_dataloader.dataset.dataset.pipeline.4.prob': 0.1},
    r'randomness\.seed: 1 -> 2': {'randomness.seed': 2},
    r'param_scheduler\.1\.milestones: \[2\] -> \[1, 2\]': {
        'param_scheduler.1.milestones': [1, 2]},
    'batch_size: 4 -> 2': {'train_dataloader.batch_size': 2},
    'on_device: None -> True': {
        'train_dataloader.dataset.dataset.pipeline.3.on_device': True},
    'epoch_length: 14 -> 12': {'train_dataloader.sampler.epoch_length': 12},
    'seed: 3 -> 99': {'train_dataloader.sampler.seed': 99},
    r'lr: 0\.05 -> 0\.5': {'optim_wrapper.optimizer.lr': 0.5},
    r'optimizer\.type: SGD -> AdamW': {
        'optim_wrapper.optimizer': dict(_delete_=True, type='AdamW')},
    r'train_cfg\.by_epoch: True -> False': {
        'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=9)},
    r'0\.3 -> 0\.2': {'model.backbone.drop_path_rate': 0.2},
    r'custom_hooks\.0\.type: None -> EMAHook': {
        'custom_hooks': [dict(type='EMAHook')]},
    r'custom_hooks\.0\.limit: None -> 0\.1': {
        'custom_hooks': [dict(type='ConsistencyLimitHook', limit=0.1)]},
    'None -> EMAHook': {'default_hooks.average': dict(type='EMAHook')},
}  # fmt: skip


@pytest.mark.parametrize(('message', 'changes'), OTHER_RUNS.items())
def test_another_run_is_refused(data, tmp_path, stopped, message, changes):
    config = make_config(data, tmp_path, steps=1)
    config.merge_from_dict(deepcopy(changes))
    with pytest.raises(ValueError, match=message) as caught:
        train(config, stopped / 'iter_6.pth')
    assert 'on_change=warn' in str(caught.value)
    assert 'load_from=' in str(caught.value)
    assert '\n' not in str(caught.value)
    assert not list(tmp_path.glob('*.pth'))


def test_other_images_of_the_same_counts_are_refused(tmp_path, stopped):
    # Two images change places: no count notices.
    other = write_data(tmp_path / 'data', [[0, 1], [0], *LABELS[2:]])
    with pytest.raises(ValueError, match='digest of the image list'):
        train(make_config(other, tmp_path / 'work'), stopped / 'iter_6.pth')


def test_what_shapes_no_training_may_change(tmp_path, stopped):
    moved = write_data(tmp_path / 'elsewhere')
    config = make_config(moved, tmp_path / 'work', steps=0)
    changes = {
        'train_cfg.val_interval': 2,
        'train_dataloader.pin_memory': True,
        'train_dataloader.dataset.dataset.image_cache': 'auto',
        'default_hooks.logger.interval': 1,
        'model.backbone.init_cfg': dict(type='Kaiming', layer='Conv2d'),
        'param_scheduler.1.milestones': (2,),
    }
    config.merge_from_dict(deepcopy(changes))
    train(config, stopped / 'iter_6.pth')
    expected = read_checkpoint(stopped / 'iter_9.pth')
    found = read_checkpoint(tmp_path / 'work' / 'epoch_3.pth')
    assert_same(expected['state_dict'], found['state_dict'])


def test_long_lists_are_compared_by_their_digest():
    facts = []
    for last in (1, 2):
        cfg = dict(train_dataloader={}, model=dict(names=[*range(5000), last]))
        runner = SimpleNamespace(
            cfg=cfg, world_size=last, train_dataloader=DataLoader([0])
        )
        facts.append(resume_state.run_signature(runner))
    changes = resume_state.compare_signatures(*facts)
    assert changes['processes'] == 'processes: 1 -> 2'
    assert len(changes['model.names']) < 100
    assert len(changes) == 2


def go_on(data, work_dir, checkpoint, changes):
    """Resumes another run deliberately, and logs every step."""
    config = make_config(data, work_dir, steps=1)
    config.merge_from_dict(deepcopy(changes))
    config.default_hooks.logger.interval = 1
    config.default_hooks.exact_resume.on_change = 'warn'
    return train(config, checkpoint)


def test_going_on_deliberately(data, tmp_path, stopped, capsys):
    changes = {'train_dataloader.batch_size': 2}
    recorder = go_on(data, tmp_path, stopped / 'iter_4.pth', changes)
    said = capsys.readouterr().out
    assert 'train_dataloader.batch_size: 4 -> 2' in said
    # 7 steps an epoch now: the first one is cut short by nothing.
    assert min(recorder.seen) == 4
    assert 'saved inside epoch 2, which starts anew' in said


SCHEDULE = [
    dict(type='LinearLR', by_epoch=False, begin=0, end=4),
    dict(type='MultiStepLR', by_epoch=True, milestones=[1, 3], gamma=0.5),
]
ADAMW = dict(_delete_=True, type='AdamW', lr=0.002)
COSINE = [dict(type='CosineAnnealingLR', by_epoch=False, T_max=12)]


@pytest.mark.parametrize(
    ('saved', 'changes', 'momenta'),
    [
        (6, {'param_scheduler': SCHEDULE, 'train_cfg.max_epochs': 4}, True),
        (7, {'param_scheduler': SCHEDULE}, True),
        (7, {'param_scheduler': COSINE}, True),
        (6, {'param_scheduler': None}, True),
        (7, {'optim_wrapper.optimizer.lr': 0.5}, True),
        (6, {'auto_scale_lr': dict(enable=True, base_batch_size=2)}, True),
        (
            6,
            {
                'optim_wrapper.optimizer': dict(
                    _delete_=True, type='AdamW', lr=0.002
                )
            },
            False,
        ),
        (6, {'optim_wrapper.paramwise_cfg': dict(bias_lr_mult=2.0)}, False),
    ],
)
def test_the_rates_of_another_config(
    data, tmp_path, stopped, capsys, saved, changes, momenta
):
    """They are those of a run that had this config from the beginning."""
    go_on(data, tmp_path / 'whole', None, changes)
    capsys.readouterr()
    recorder = go_on(
        data, tmp_path / 'run', stopped / f'iter_{saved}.pth', changes
    )
    said = capsys.readouterr().out
    assert 'It goes on with those, as asked' in said
    assert ('starts anew, without momenta' in said) != momenta
    assert 'which starts anew:' not in said
    whole, found = (
        {
            step: values['lr']
            for (kind, step), values in read_scalars(tmp_path / name).items()
            if kind == 'train'
        }
        for name in ('whole', 'run')
    )
    assert min(recorder.seen) == saved
    assert found == {k: v for k, v in whole.items() if k > saved}
    expected, actual = (
        read_checkpoint(tmp_path / name / f'iter_{max(whole)}.pth')
        for name in ('whole', 'run')
    )
    assert (
        actual['optimizer']['param_groups']
        == expected['optimizer']['param_groups']
    )


def test_an_empty_scale_of_bfloat16_is_left_out():
    weight = torch.nn.Parameter(torch.zeros(1))
    wrapper = OptimWrapper(torch.optim.SGD([weight], lr=1))
    runner = SimpleNamespace(train_dataloader=[0], param_schedulers=[])
    runner.optim_wrapper = wrapper
    for scale in ({}, {'scale': 2.0}):
        state = {**wrapper.state_dict(), 'loss_scaler': scale}
        checkpoint = {'meta': {'iter': 0, 'epoch': 0}, 'optimizer': state}
        resume_state.follow_config(runner, checkpoint, ['optim_wrapper.dtype'])
        assert ('loss_scaler' in checkpoint['optimizer']) == bool(scale)


def test_momenta_of_other_groups_are_left():
    """Groups may merge by their numbers, and momenta go by position."""
    weights = [torch.nn.Parameter(torch.full((2,), x)) for x in (1.0, 2.0)]
    groups = [dict(params=[weight]) for weight in weights]
    saved, own = (
        OptimWrapper(torch.optim.SGD(params, lr=1, momentum=0.9))
        for params in (groups, weights[::-1])
    )
    saved.update_params(sum((w * w).sum() for w in weights))
    state = saved.state_dict()
    checkpoint = {'meta': {'iter': 0, 'epoch': 0}, 'optimizer': state}
    runner = SimpleNamespace(train_dataloader=[0], param_schedulers=[])
    runner.optim_wrapper, runner.logger = own, MMLogger('momenta')
    decay = 'optim_wrapper.optimizer.weight_decay'
    resume_state.follow_config(runner, checkpoint, [decay])
    assert len(state['state']) == 2
    assert checkpoint['optimizer']['state'] == {}


def test_unknown_on_change():
    with pytest.raises(ValueError, match="'error' or 'warn', got 'no'"):
        ExactResumeHook(on_change='no')


def test_the_seed_is_that_of_the_checkpoint(data, tmp_path, capsys):
    # None takes another one in each process.
    for seed, name in ((5, 'whole'), (6, 'resumed')):
        config = make_config(data, tmp_path / name, steps=1)
        config.train_dataloader.sampler.seed = None
        config.randomness.seed = None
        numpy.random.seed(seed)
        checkpoint = tmp_path / 'whole' / 'iter_6.pth'
        train(config, checkpoint if name == 'resumed' else None)
    assert_same_runs(tmp_path / 'whole', tmp_path / name, 'iter_9.pth', 6)
    assert 'of the checkpoint, not with' in capsys.readouterr().out


def test_another_seed_is_taken_where_it_was_asked_for(
    data, tmp_path, stopped, capsys
):
    key = 'train_dataloader.sampler.seed'
    go_on(data, tmp_path, stopped / 'iter_6.pth', {key: 11})
    assert 'of the checkpoint, not with' not in capsys.readouterr().out
    assert read_checkpoint(tmp_path / 'iter_9.pth')[KEY]['seed'] == 11


def test_checkpoint_without_random_states(data, tmp_path, stopped, capsys):
    checkpoint = read_checkpoint(stopped / 'iter_6.pth')
    del checkpoint['exact_resume']
    torch.save(checkpoint, tmp_path / 'stock.pth')
    train(make_config(data, tmp_path), tmp_path / 'stock.pth')
    assert 'holds no random states' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [
        ('find_stack', 'openmmlab', 'is not promised to be exact'),
        # A sampler that cannot continue.
        ('stream_sampler', None, 'epoch 3, which starts anew'),
    ],
)
def test_what_is_not_exact_is_told(
    data, tmp_path, stopped, monkeypatch, capsys, name, value, words
):
    monkeypatch.setattr(exact_resume_hook, name, lambda *_: value)
    recorder = train(make_config(data, tmp_path), stopped / 'iter_8.pth')
    assert words in capsys.readouterr().out
    if value is None:
        assert recorder.indices == {8: 0, 9: 1, 10: 2}


@pytest.mark.parametrize(
    ('by_epoch', 'checkpoint', 'refused'),
    [
        (True, dict(interval=2, by_epoch=False), True),
        (True, dict(interval=4, by_epoch=False), False),
        (True, dict(interval=4, by_epoch=False, save_begin=3), True),
        # An epoch has three steps.
        (True, dict(interval=1), True),
        (True, dict(interval=4), False),
        (False, dict(interval=6, by_epoch=False), True),
        (False, dict(interval=-1, by_epoch=False), False),
        # It validates every epoch; the last one is the end of the run.
        (True, dict(interval=4, by_epoch=False, save_best='auto'), True),
        (False, dict(interval=4, by_epoch=False, save_best='auto'), False),
    ],
)
def test_checkpoints_between_optimizer_steps(
    data, tmp_path, by_epoch, checkpoint, refused
):
    config = make_config(data, tmp_path, by_epoch=by_epoch)
    config.default_hooks.checkpoint = dict(
        type='SafeCheckpointHook', **checkpoint
    )
    config.optim_wrapper.accumulative_counts = 4
    runner = Runner.from_cfg(config)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    error = pytest.raises(ValueError, match='accumulative_counts=4')
    with error if refused else nullcontext():
        check_accumulation(runner)


@onedl_only
@pytest.mark.parametrize('drop_last', [True, False])
@pytest.mark.parametrize('length', [12, 14])
def test_skip_counts_what_a_pass_consumes(drop_last, length):
    """OneDL's own iterator, from every position of three passes."""
    images = Images()

    def batches(skipped, count):
        sampler = UniformSampler(images, num_samples=length, seed=5)
        data = DataLoader(
            images, 4, sampler=sampler, drop_last=drop_last, num_workers=0
        )
        sampler.pass_length = len(data) * 4
        iterator = loops._InfiniteDataloaderIterator(data)
        iterator.skip_iter(skipped)
        return [next(iterator).tolist() for _ in range(count)]

    expected = batches(0, 12)
    for skipped in range(1, 11):
        assert batches(skipped, 12 - skipped) == expected[skipped:]


class Images:
    metainfo = {}  # noqa: RUF012

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index

    def get_cat_ids(self, index):
        return [0]
