"""No infinity and no NaN reaches the weights."""

import weakref
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from engine_runner import Model, make_runner
from forked import train_ranks
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from poisoned_batch import Poison, states
from tiny_training import make_config
from two_branch_case import batch, build

from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.engine import (
    GuardedAmpOptimWrapper,
    GuardedOptimWrapper,
    NonFiniteError,
)
from ltml_mm.engine.optimizers.guarded_optim_wrapper import MAX_IN_A_ROW

HAS_GPU = f'{amp_optimizer_wrapper.__name__}.is_cuda_available'
SGD = dict(type='SGD', lr=0.05, momentum=0.9)
LAST = 9  # steps of a tiny training
assert_equal = partial(torch.testing.assert_close, rtol=0, atol=0)


@pytest.fixture(params=[False, True], ids=['usual', 'fused'], autouse=True)
def fused(request, monkeypatch):
    """Fused, it leaves a step out by itself, and the host reads that later."""
    monkeypatch.setitem(SGD, 'fused', request.param)


def guarded(data, work_dir, on_nonfinite, **options):
    config = make_config(data, work_dir)
    config.optim_wrapper = dict(
        type='GuardedOptimWrapper',
        on_nonfinite=on_nonfinite,
        optimizer=dict(SGD),
        clip_grad=dict(max_norm=35),
        **options,
    )
    config.default_hooks.checkpoint.interval = LAST
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    return config


def train(config, stops=False, **poison):
    """Trains; returns runner, hook, and what the wrapper says if it stops."""
    runner = Runner.from_cfg(config)
    hook = Poison(**poison)
    runner.register_hook(hook)
    with pytest.raises(NonFiniteError) if stops else nullcontext() as error:
        runner.train()
    return runner, hook, str(error and error.value)


def test_images_of_accumulated_batches_are_let_go():
    model, seen = build(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wrapper = GuardedOptimWrapper(optimizer=optimizer, accumulative_counts=4)
    wrapper.initialize_count_status(model, 0, 4)
    for _ in range(3):
        data = batch()
        seen += map(weakref.ref, data['inputs'].values())
        with wrapper.optim_context(model):
            losses = model(**data, mode='loss')
        wrapper.update_params(model.parse_losses(losses)[0])
        del data, losses
        assert [image() for image in seen] == [None] * len(seen)


def make_small(work_dir, model, clip_grad, **wrapper):
    """Builds a Runner of four steps."""
    clip_grad = clip_grad and dict(clip_grad)  # the wrapper takes from it
    return make_runner(
        work_dir,
        model,
        hooks=['ClassStatisticsHook'],
        default_hooks=dict(checkpoint=dict(type='SafeCheckpointHook')),
        optim_wrapper=dict(optimizer=SGD, clip_grad=clip_grad, **wrapper),
        train_cfg=dict(by_epoch=True, max_epochs=2),
    )


@pytest.mark.parametrize('accumulative_counts', [1, 2])
@pytest.mark.parametrize(
    'clip_grad',
    [
        *(None, dict(max_norm=0.05), dict(max_norm=2.0, norm_type=1.0)),
        *(dict(max_norm=9.0), dict(type='value', clip_value=0.02)),
    ],
)
def test_finite_steps_are_the_stock_ones(
    tmp_path, clip_grad, accumulative_counts
):
    results = []
    for kind in ('OptimWrapper', 'GuardedOptimWrapper'):
        torch.manual_seed(0)
        model = Model()
        options = dict(type=kind, accumulative_counts=accumulative_counts)
        runner = make_small(tmp_path / kind, model, clip_grad, **options)
        start = model.fc.weight.detach().clone()
        runner.train()
        assert not torch.equal(model.fc.weight, start)
        norms = runner.message_hub.log_scalars.get('train/grad_norm')
        logged = norms.data[0].tolist() if norms else None
        results.append((model.state_dict(), logged))
    (stock, stock_norms), (own, own_norms) = results
    assert_equal(stock, own)
    assert own_norms == stock_norms
    assert (own_norms is None) == ('max_norm' not in (clip_grad or ()))


@pytest.mark.parametrize('what', ['images', 'labels'])
def test_skip_leaves_no_trace(data, tmp_path, what, capsys):
    config = guarded(data, tmp_path, 'skip')
    runner, hook, _ = train(config, steps=[2, 5], what=what)
    for step in range(1, LAST + 1):
        (before, momenta), (after, momenta_after) = (
            hook.before[step],
            hook.after[step],
        )
        if step in (2, 5):
            # BatchNorm's running statistics too: NaN would stay in them.
            assert_equal(before, after)
            assert_equal(momenta, momenta_after)
        else:
            name = 'loss_cls.uniform.pos_scale'
            assert not torch.equal(before[name], after[name])
    assert all(v.isfinite().all() for v in hook.after[LAST][0].values())
    counts, _ = runner.message_hub.log_scalars['train/skipped_steps'].data
    assert counts.tolist() == [1, 2]
    saved = read_checkpoint(tmp_path / f'iter_{LAST}.pth')['message_hub']
    assert saved['runtime_info']['skipped_steps'] == 2
    assert 'rebalanced.loss_cls = nan' in capsys.readouterr().out


def test_the_count_goes_on_after_a_resume(data, tmp_path):
    config = guarded(data, tmp_path, 'skip')
    config.default_hooks.checkpoint.interval = 3
    train(config, steps=[2, 5])
    again = guarded(data, tmp_path, 'skip')
    again.resume, again.load_from = True, str(tmp_path / 'iter_6.pth')
    runner, *_ = train(again, steps=[8])
    counts, _ = runner.message_hub.log_scalars['train/skipped_steps'].data
    assert counts.tolist() == [1, 2, 3]


@pytest.mark.parametrize('kind', ['SGD', 'AdamW'])
def test_stop_tells_step_terms_and_images(data, tmp_path, kind):
    config = guarded(data, tmp_path, 'stop')
    if kind == 'AdamW':
        config.optim_wrapper.optimizer = dict(type=kind, fused=SGD['fused'])
    runner, hook, message = train(config, True, steps=[4], what='labels')
    assert message.startswith('step 4: ')
    assert 'rebalanced.loss_cls = nan' in message
    # The other terms are finite.
    assert 'uniform.loss_cls' not in message
    assert 'consistency' not in message
    assert len(hook.names[4]) == 8
    for name in hook.names[4]:
        assert str(name) in message
    assert runner.iter == 3 + SGD['fused']
    before, momenta = hook.before[4]
    model = runner.model
    assert_equal(
        [before[name] for name, _ in model.named_parameters()],
        [parameter.detach() for parameter in model.parameters()],
    )
    assert_equal(momenta, states(runner)[1])
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('ahead_of', ['save', 'end', 'validation', 'stock'])
def test_the_last_step_is_checked(data, tmp_path, ahead_of):
    config, step = guarded(data, tmp_path, 'stop'), LAST
    if ahead_of != 'save':
        never = dict(interval=-1, save_last=False)
        config.default_hooks.checkpoint.update(never)
    if ahead_of == 'validation':
        step = 3
        whole = make_config(data, tmp_path)
        for name in ('val_dataloader', 'val_cfg', 'val_evaluator'):
            config[name] = whole[name]
    elif ahead_of == 'stock':  # It removes before it saves.
        saves = dict(by_epoch=False, interval=3, max_keep_ckpts=1)
        config.custom_hooks = [dict(type='CheckpointHook', **saves)]
    runner, _, message = train(config, True, steps=[step], what='labels')
    assert message.startswith(f'step {step}: ')
    assert not any('mAP' in key for key in runner.message_hub.log_scalars)
    kept = ['iter_6.pth'] if ahead_of == 'stock' else []
    assert [path.name for path in tmp_path.glob('*.pth')] == kept


def test_the_decision_comes_at_the_accumulated_step(data, tmp_path):
    config = guarded(data, tmp_path, 'stop', accumulative_counts=3)
    runner, hook, message = train(config, True, steps=[4])
    assert message.startswith('step 6: ')
    assert runner.iter == 5 + 3 * SGD['fused']
    lines = [line for line in message.splitlines() if line[:2] == '  ']
    # Of the batch with the NaN alone.
    named = [line.split(' ', 3)[3] for line in lines]
    assert named == [str(name) for name in hook.names[4]]


def test_skipping_accumulated_batches(data, tmp_path):
    config = guarded(data, tmp_path, 'skip', accumulative_counts=3)
    runner, hook, _ = train(config, steps=[4])
    (before, momenta), (after, momenta_after) = hook.before[4], hook.after[6]
    assert_equal(before, after)
    assert_equal(momenta, momenta_after)
    assert runner.message_hub.get_info('skipped_steps') == 1
    # The gradients of the skipped batches are gone as well.
    assert all(v.isfinite().all() for v in hook.after[LAST][0].values())
    assert not torch.equal(
        hook.after[LAST][0]['heads.uniform.fc.weight'],
        before['heads.uniform.fc.weight'],
    )


@pytest.mark.parametrize('value', [torch.inf, torch.nan])
@pytest.mark.parametrize(
    'clip_grad',
    [None, dict(max_norm=1), dict(max_norm=1, error_if_nonfinite=True)],
)
def test_gradients_that_are_not_finite(tmp_path, value, clip_grad):
    for mode in ('stop', 'skip'):
        model = Model()
        model.fc.bias.register_hook(lambda g: torch.full_like(g, value))
        start = {k: v.clone() for k, v in model.state_dict().items()}
        kind = dict(type='GuardedOptimWrapper', on_nonfinite=mode)
        runner = make_small(tmp_path / mode, model, clip_grad, **kind)
        if mode == 'skip':
            runner.train()
            assert runner.message_hub.get_info('skipped_steps') == 4
        else:
            with pytest.raises(NonFiniteError) as error:
                runner.train()
            message = str(error.value)
            assert f'norm of the gradients is {value}' in message
            # Named before clipping spreads it to all parameters.
            assert '(parameters fc.bias)' in message
            assert 'no img_path' in message
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, start[name]), name


def make_wrapper(kind=GuardedOptimWrapper, **options):
    """A wrapper, its one parameter, and a step with a gradient of it."""
    weight = torch.nn.Parameter(torch.ones(2))
    sgd = torch.optim.SGD([weight], 0.1, fused=SGD['fused'])
    wrapper = kind(optimizer=sgd, **options)
    wrapper.reads_late = True

    def step(factor, end=False, plus=0):
        wrapper.update_params((weight * factor).sum() + plus)
        if end:
            wrapper.check_last_step()

    return wrapper, weight, step


def test_skipping_without_end_stops():
    _, weight, step = make_wrapper(on_nonfinite='skip')
    bad, good = torch.nan, 1.0
    for factor in [bad] * MAX_IN_A_ROW + [good] + [bad] * MAX_IN_A_ROW:
        step(factor)
    assert torch.equal(weight, torch.full((2,), 0.9))
    with pytest.raises(NonFiniteError, match='41 steps in a row'):
        step(bad)


def test_unknown_choice():
    with pytest.raises(ValueError, match="'stop' or 'skip', got 'ignore'"):
        make_wrapper(on_nonfinite='ignore')


@pytest.fixture
def amp(monkeypatch):
    """The AMP wrapper on this machine, with the scaler of the CPU."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(HAS_GPU, lambda: True)
        scaler = partial(torch.amp.GradScaler, device='cpu')
        monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    return partial(make_wrapper, GuardedAmpOptimWrapper)


@pytest.mark.parametrize('clip_grad', [None, dict(max_norm=100.0)])
def test_overflow_is_left_to_the_scaler(amp, clip_grad):
    scale = dict(init_scale=2.0**127)
    wrapper, weight, step = amp(loss_scale=scale, clip_grad=clip_grad)
    for _ in range(3):
        step(8.0)
    # 8 * 2**127 and 8 * 2**126 and 8 * 2**125 are infinite in float32.
    assert torch.equal(weight, torch.ones(2))
    assert wrapper.loss_scaler.get_scale() == 2.0**124
    step(8.0)
    torch.testing.assert_close(weight, torch.full((2,), 0.2))
    assert wrapper.loss_scaler.get_scale() == 2.0**124


@pytest.mark.parametrize('sign', [1, -1])
def test_foreign_losses_of_heads_see_float32(amp, sign):
    kind = dict(type='MultiLabelLinearClsHead', num_classes=2, in_channels=1)
    loss = dict(type='AsymmetricLoss', gamma_neg=2.0)
    head = MODELS.build(dict(kind, loss=loss))
    torch.nn.init.constant_(head.fc.weight, 1.0)
    wrapper, *_ = amp(loss_scale=dict(init_scale=1.0), dtype='bfloat16')
    samples = [DataSample().set_gt_score(torch.tensor([1.0, 0.0]))]
    feats = torch.full((1, 1), sign * 1e4)
    with wrapper.optim_context(head), torch.autocast('cpu', torch.float16):
        loss = head.loss((feats,), samples)['loss']
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())
    assert not head.loss_module._forward_pre_hooks


def test_a_loss_that_is_not_finite_is_no_overflow(amp):
    wrapper, weight, step = amp(loss_scale=dict(init_scale=4.0))
    with pytest.raises(NonFiniteError, match='loss is not finite'):
        step(torch.inf, end=True)
    assert torch.equal(weight, torch.ones(2))
    _, weight, step = amp(loss_scale=dict(init_scale=4.0))
    with pytest.raises(NonFiniteError, match='loss is not finite'):
        step(1.0, end=True, plus=torch.inf)  # Of finite gradients.
    assert torch.equal(weight, torch.ones(2))
    wrapper, weight, step = amp(
        loss_scale=dict(init_scale=4.0), on_nonfinite='skip'
    )
    step(torch.inf)
    assert torch.equal(weight, torch.ones(2))
    assert wrapper.loss_scaler.get_scale() == 4
    # Ready for the next step.
    step(1.0)
    torch.testing.assert_close(weight, torch.full((2,), 0.9))


def test_gradients_that_no_scale_mends(amp):
    _, weight, step = amp(loss_scale=dict(init_scale=4.0))
    weight.register_hook(lambda g: g * torch.inf)
    for _ in range(MAX_IN_A_ROW):
        step(1.0)
    with pytest.raises(NonFiniteError, match='41 steps in a row'):
        step(1.0, end=True)
    assert torch.equal(weight, torch.ones(2))
    _, weight, step = amp(loss_scale=dict(enabled=False))
    weight.register_hook(lambda g: g * torch.inf)
    with pytest.raises(NonFiniteError, match='gradients is inf'):
        step(1.0, end=True)


def test_finite_mixed_precision_steps_are_the_stock_ones(amp):
    weights = []
    stock = partial(make_wrapper, amp_optimizer_wrapper.AmpOptimWrapper)
    for make in (amp, stock):
        wrapper, weight, step = make(
            loss_scale=dict(init_scale=8.0, growth_interval=2),
            clip_grad=dict(max_norm=1.41),
            accumulative_counts=2,
        )
        for factor in (0.01, 0.01, 5.0, -2.0, 1.0, 1.0):
            step(factor)
        norms = wrapper.message_hub.get_scalar('train/grad_norm').data[0][-3:]
        weights.append((weight, wrapper.loss_scaler.get_scale(), [*norms]))
    assert torch.equal(weights[0][0], weights[1][0])
    assert weights[0][1:] == weights[1][1:] > (9,)


def on_a_cpu(monkeypatch):
    monkeypatch.setattr('mmengine.device.utils.DEVICE', 'cpu')
    monkeypatch.setattr(HAS_GPU, lambda: False)


def test_bfloat16_on_a_cpu(monkeypatch):
    on_a_cpu(monkeypatch)
    layer = torch.nn.Linear(3, 2)
    wrapper = GuardedAmpOptimWrapper(
        optimizer=torch.optim.SGD(layer.parameters(), 0.1),
        dtype='bfloat16',
        loss_scale='dynamic',
        clip_grad=dict(max_norm=35),
    )
    inputs, weight = torch.randn(4, 3), layer.weight.detach().clone()
    with wrapper.optim_context(layer):
        output = layer(inputs)
    assert output.dtype == torch.bfloat16
    wrapper.update_params(output.float().sum())
    # Accurate to the 8 bits of bfloat16.
    expected = weight - 0.1 * inputs.sum(0)
    torch.testing.assert_close(layer.weight, expected, atol=0.02, rtol=0)
    assert layer.weight.dtype == torch.float32
    # What a GPU saved is gone on with, and the other way round.
    saved = {**wrapper.state_dict(), 'loss_scaler': {'scale': 8.0}}
    wrapper.load_state_dict(saved)
    assert wrapper.state_dict()['loss_scaler'] == {}
    with wrapper.optim_context(layer):
        output = layer(inputs * torch.nan)
    with pytest.raises(NonFiniteError, match='loss is not finite'):
        wrapper.update_params(output.sum())


@pytest.mark.parametrize('dtype', [None, 'float16'])
def test_a_cpu_takes_no_other_precision(monkeypatch, dtype):
    on_a_cpu(monkeypatch)
    with pytest.raises(ValueError, match=f'=bfloat16, got {dtype}'):
        make_wrapper(GuardedAmpOptimWrapper, dtype=dtype)


def test_losses_of_any_shape_are_checked():
    wrapper, _, step = make_wrapper()
    losses = dict(loss_a=[], loss_b=torch.ones(1), loss_c=torch.ones(2))
    wrapper._passes.append(([], losses))
    step(torch.ones(1))
    wrapper.check_last_step()
    wrapper._passes.append(
        ([], dict(losses, loss_c=[torch.tensor(torch.inf)]))
    )
    with pytest.raises(NonFiniteError, match=r'\(loss_c = inf\)'):
        step(torch.nan, end=True)


def test_a_resume_that_is_not_fused_goes_on():
    weight = torch.nn.Parameter(torch.ones(2))
    adam = torch.optim.AdamW([weight], 0.1, fused=True)
    wrapper = GuardedOptimWrapper(optimizer=adam)
    wrapper.reads_late = True
    adam.param_groups[0]['fused'] = None  # As load_state_dict brings it.
    wrapper.update_params(weight.sum())
    assert (weight < 1).all()


def poisoned_ranks(data, folder, on_nonfinite):
    folder.mkdir()
    config = guarded(data, folder / 'run', on_nonfinite)
    config.custom_imports = dict(imports=['ltml_mm', 'poisoned_batch'])
    config.train_dataloader.batch_size = 2
    config.default_hooks.checkpoint.interval = 2  # Saved by process 0.
    poison = dict(type='Poison', steps=[2], what='labels', rank=1)
    config.custom_hooks = [{**poison, 'out_dir': str(folder)}]
    config.env_cfg.dist_cfg = dict(backend='gloo')
    config.dump(folder / 'config.py')
    return train_ranks(folder / 'config.py')


def test_processes_stop_together(data, tmp_path):
    folder = tmp_path / 'stop'
    assert poisoned_ranks(data, folder, 'stop') == [1, 1]
    # Both name the process with the NaN.
    for rank in range(2):
        text = (folder / f'rank_{rank}.txt').read_text()
        assert 'error: step 2: on process 1 the loss is not' in text
        assert 'on process 0' not in text


def test_processes_skip_together(data, tmp_path):
    folder = tmp_path / 'skip'
    assert poisoned_ranks(data, folder, 'skip') == [0, 0]
    first, second = (
        torch.load(folder / f'rank_{rank}.pth', weights_only=True)
        for rank in range(2)
    )
    saved = read_checkpoint(folder / 'run' / f'iter_{LAST}.pth')
    info = saved['message_hub']['runtime_info']
    assert info['skipped_steps'] == 1
    for name, value in first.items():
        assert value.isfinite().all(), name
        if 'running' not in name:
            assert torch.equal(value, second[name]), name
