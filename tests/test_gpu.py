"""What only a GPU can show, each against a reference of its own."""

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from poisoned_batch import Poison
from tiny_training import REPO, extend, make_config, write_small
from two_branch_case import batch, build

from ltml_mm.apis import MultiLabelInferencer, merge, test, train
from ltml_mm.apis.checkpoint import read_checkpoint
from ltml_mm.engine import NonFiniteError
from ltml_mm.engine.hooks import late_values
from ltml_mm.engine.hooks.device_hook import arrange, fit_optimizer

pytestmark = pytest.mark.gpu

DEVICE = 'cuda'
#: Precision: the largest relative differences from the CPU, of each loss and
#: of what the weights have moved, as one vector. Half precision flips ReLUs.
BOUNDS = {
    torch.float64: (1e-8, 1e-8),
    torch.float32: (1e-4, 1e-3),
    torch.float16: (1e-2, 0.5),
    torch.bfloat16: (2e-2, 0.5),
}
DROPS = 'model = dict(backbone=dict(drop_path_rate=0.3))\n'


def few_steps(device, precision, steps=4, layout='contiguous'):
    """Losses of a few training steps, and what they move the weights by."""
    model = build().to(device)
    first = torch.nn.utils.parameters_to_vector(model.parameters())
    arrange(model, layout)
    if precision == torch.float64:
        model.double()
    half = precision in (torch.float16, torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    fit_optimizer(optimizer)
    assert bool(optimizer.param_groups[0]['fused']) is (device == DEVICE)
    losses = []
    for number in range(steps):
        data = batch(4, seed=number)
        kind = torch.float64 if precision == torch.float64 else torch.float32
        inputs = {k: v.to(device, kind) for k, v in data['inputs'].items()}
        with torch.autocast(device, precision, enabled=half):
            terms = model(inputs, data['data_samples'], mode='loss')
        loss = sum(v for k, v in terms.items() if 'loss' in k)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # In any layout: the elements as they are numbered.
    last = torch.cat([p.reshape(-1) for p in model.parameters()])
    return losses, (last.double() - first).detach().cpu()


@pytest.mark.parametrize('layout', ['contiguous', 'channels_last'])
@pytest.mark.parametrize('precision', BOUNDS, ids=str)
def test_training_follows_the_cpu(precision, layout, exact_floats):
    """Full precision of the CPU is the reference of the half ones too."""
    half = precision in (torch.float16, torch.bfloat16)
    losses, moves = few_steps('cpu', torch.float32 if half else precision)
    found, moved = few_steps(DEVICE, precision, layout=layout)
    of_loss, of_moves = BOUNDS[precision]
    assert found == pytest.approx(losses, rel=of_loss)
    assert (moved - moves).norm() < of_moves * moves.norm()


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A config and a checkpoint trained on the GPU by the tool."""
    folder = tmp_path_factory.mktemp('gpu')
    config = write_small(folder)
    spread = "model.head.init_cfg=dict(type='Normal', layer='Linear', std=1)"
    # Scores 1e-2 apart; of a positive and a negative 6e-4 at least, so that
    # rounding leaves their order as it is.
    train.main([str(config), '--cfg-options', spread, 'randomness.seed=10'])
    return config, folder / 'work' / 'epoch_1.pth'


def environment(**values):
    """A new process's: this Python and this package come first."""
    own = {**os.environ, **values}
    first = dict(PATH=Path(sys.executable).parent, PYTHONPATH=REPO)
    for name, path in first.items():
        own[name] = f'{path}:{os.environ.get(name, "")}'.rstrip(':')
    own.pop('CUBLAS_WORKSPACE_CONFIG', None)
    return own


def on_the_cpu(tool, *arguments):
    """Runs a tool where no GPU is seen."""
    command = [sys.executable, str(REPO / tool), *map(str, arguments)]
    hidden = environment(CUDA_VISIBLE_DEVICES='')
    subprocess.run(command, check=True, env=hidden)


def test_test_agrees_with_the_cpu(trained, tmp_path, exact_floats):
    config, checkpoint = trained
    files = [tmp_path / 'gpu.json', tmp_path / 'cpu.json']
    options = ('--work-dir', str(tmp_path))
    arguments = (str(config), str(checkpoint), *options, '--out')
    test.main([*arguments, str(files[0])])
    on_the_cpu('tools/test.py', *arguments, files[1])
    gpu, cpu = (json.loads(file.read_text()) for file in files)
    rows = [
        [p['scores'] for p in found['predictions']] for found in (gpu, cpu)
    ]
    np.testing.assert_allclose(*rows, atol=1e-4, rtol=0)
    assert gpu['metrics'] == pytest.approx(cpu['metrics'], abs=1e-6)


def test_prediction_agrees_with_the_cpu(trained, exact_floats):
    config, checkpoint = map(str, trained)
    images = sorted((Path(config).parent / 'data').glob('*.png'))
    gpu, cpu = (
        MultiLabelInferencer(config, checkpoint, device)
        for device in (DEVICE, 'cpu')
    )
    weight = gpu.model.backbone.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    found, expected = gpu([*map(str, images)]), cpu([*map(str, images)])
    for one, other in zip(found, expected, strict=True):
        assert one['scores'] == pytest.approx(other['scores'], abs=1e-4)


def test_the_merged_model_agrees_with_the_cpu(trained, tmp_path, exact_floats):
    config, checkpoint = map(str, trained)
    merged = str(tmp_path / 'merged.pth')
    merge.main([config, checkpoint, merged])
    images = [str(p) for p in (Path(config).parent / 'data').glob('*.png')]
    written = str(Path(merged).with_suffix('.py'))
    scores = [
        [list(r['scores'].values()) for r in inferencer(images)]
        for inferencer in (
            MultiLabelInferencer(written, merged, device)
            for device in (DEVICE, 'cpu')
        )
    ]
    np.testing.assert_allclose(*scores, atol=1e-4, rtol=0)


@pytest.fixture(scope='module')
def deterministic(tmp_path_factory):
    """Trains a tiny config in a new process, deterministically."""
    folder = tmp_path_factory.mktemp('deterministic')
    config = extend(
        write_small(folder),
        f'{DROPS}train_cfg = dict(max_epochs=3)\n'
        'randomness = dict(deterministic=True)\n'
        "custom_hooks = [dict(type='EMAHook')]\n"
        'default_hooks = dict(checkpoint=dict(\n'
        '    by_epoch=False, interval=1, max_keep_ckpts=-1))\n',
    )

    def run(name, *arguments):
        work = folder / name
        tool = [sys.executable, str(REPO / 'tools/train.py'), str(config)]
        command = [*tool, '--work-dir', str(work), *map(str, arguments)]
        subprocess.run(command, check=True, env=environment())
        return work

    return run, run('whole')


def assert_same_end(found, expected):
    """Weights, averages and momenta after the last step, bit by bit."""
    ends = [read_checkpoint(work / 'iter_6.pth') for work in (found, expected)]
    for key in ('state_dict', 'ema_state_dict'):
        states = (end[key] for end in ends)
        torch.testing.assert_close(*states, rtol=0, atol=0)
    momenta = (
        {i: s['momentum_buffer'] for i, s in end['optimizer']['state'].items()}
        for end in ends
    )
    torch.testing.assert_close(*momenta, rtol=0, atol=0)


@pytest.mark.parametrize('arguments', [(), ('--amp',), ('--amp', 'bf16')])
def test_the_same_seed_is_the_same_run(deterministic, arguments):
    run, whole = deterministic
    first = run(f'first{arguments}', *arguments) if arguments else whole
    assert_same_end(run(f'again{arguments}', *arguments), first)


@pytest.mark.parametrize('step', [2, 3], ids=['epoch', 'inside'])
def test_a_resumed_run_is_the_whole_one(deterministic, step):
    run, whole = deterministic
    checkpoint = whole / f'iter_{step}.pth'
    assert_same_end(run(f'from {step}', '--resume', checkpoint), whole)


def runner_config(data, work_dir, **wrapper):
    config = make_config(data, work_dir)
    config.optim_wrapper.update(type='GuardedAmpOptimWrapper', **wrapper)
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.default_hooks.device = dict(type='DeviceHook')
    return config


class Watch(Hook):
    """Notes the weights, and the memory in use, after each step."""

    def __init__(self):
        self.weights, self.memory = [], []

    def before_train(self, runner):
        self.first = copy.deepcopy(runner.model.state_dict())

    def after_train_iter(self, runner, *args, **kwargs):
        state = runner.model.state_dict()
        self.weights = [*self.weights[-9:], copy.deepcopy(state)]
        self.memory.append(torch.cuda.memory_allocated())


class NoWait(Hook):
    """Has PyTorch raise where the host waits for the GPU, in late steps."""

    # Ends behind LateRuntimeInfoHook, and ahead of a log, which reads.
    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, *args, **kwargs):
        torch.cuda.set_sync_debug_mode('error' if runner.iter >= 3 else 0)

    def after_train_iter(self, runner, *args, **kwargs):
        torch.cuda.set_sync_debug_mode(0)


@pytest.mark.parametrize(
    'kind', ['GuardedOptimWrapper', 'GuardedAmpOptimWrapper']
)
def test_the_host_waits_for_no_step(data, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(late_values, 'MAX_AGE', np.inf)
    read, seen = late_values.StepCheck.read, []

    def note(check):  # Which waits for an event: PyTorch does not tell.
        seen.append((check.step, runner.iter))
        return read(check)

    monkeypatch.setattr(late_values.StepCheck, 'read', note)
    config = runner_config(data, tmp_path, clip_grad=dict(max_norm=1.0))
    config.optim_wrapper.type = kind
    config.default_hooks.runtime_info = dict(type='LateRuntimeInfoHook')
    runner = Runner.from_cfg(config)
    runner.register_hook(NoWait())
    try:
        runner.train()
    finally:
        torch.cuda.set_sync_debug_mode(0)
    # Each when the next step is due, or ahead of an epoch's checkpoint.
    assert [step for step, _ in seen] == [*range(1, 10)]
    assert all(now >= step for step, now in seen if step % 3)


def test_overflow_lowers_the_scale_and_leaves_the_step_out(data, tmp_path):
    scale = dict(init_scale=2.0**120)
    config = runner_config(data, tmp_path, loss_scale=scale)
    runner, watch = Runner.from_cfg(config), Watch()
    runner.register_hook(watch)
    runner.train()
    assert runner.optim_wrapper.loss_scaler.get_scale() < 2.0**120
    for name, _ in runner.model.named_parameters():
        assert torch.equal(watch.weights[0][name], watch.first[name]), name


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_what_is_not_finite_stops_the_run(data, tmp_path, dtype):
    config = runner_config(data, tmp_path, dtype=dtype)
    runner, poison = Runner.from_cfg(config), Poison(steps=[5])
    runner.register_hook(poison)
    with pytest.raises(NonFiniteError, match='step 5') as error:
        runner.train()
    assert all(name in str(error.value) for name in poison.names[5])
    weights = dict(runner.model.named_parameters())
    before, _ = poison.before[5]
    assert all(torch.equal(weights[name], before[name]) for name in weights)


def test_the_average_of_weights_is_that_of_the_formula(data, tmp_path):
    config = runner_config(data, tmp_path)
    runner, watch = Runner.from_cfg(config), Watch()
    hook = EMAHook(momentum=0.25)
    runner.register_hook(watch)
    runner.register_hook(hook)
    runner.train()
    average = None
    for state in watch.weights:
        weight = state['heads.uniform.fc.weight'].double()
        average = weight if average is None else average * 0.75 + weight / 4
    found = hook.ema_model.state_dict()['module.heads.uniform.fc.weight']
    torch.testing.assert_close(found.double(), average, rtol=0, atol=1e-6)


def test_accumulated_gradients_are_the_mean_gradient(exact_floats):
    model = build().eval().to(DEVICE)  # batch statistics would differ
    reference = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OptimWrapper(optimizer, accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 2)
    twin = torch.optim.SGD(reference.parameters(), lr=0.1)
    for number in range(2):
        model.train_step(batch(4, seed=number), wrapper)
        model.eval()
        data = reference.data_preprocessor(batch(4, seed=number), True)
        losses = reference(**data, mode='loss')
        (sum(v for k, v in losses.items() if 'loss' in k) / 2).backward()
    twin.step()
    for (name, a), b in zip(
        model.named_parameters(), reference.parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


def test_memory_stays_flat(data, tmp_path):
    """Over 2000 steps: what is kept in each would add up to MiBs."""
    config = runner_config(data, tmp_path)
    config.train_cfg = dict(by_epoch=False, max_iters=2000)
    # One epoch: MMEngine waits for two seconds between two.
    config.train_dataloader.sampler.epoch_length = 8000
    config.log_processor.by_epoch = False
    config.param_scheduler = []
    config.default_hooks.checkpoint.update(by_epoch=False, interval=2000)
    config.custom_hooks = [dict(type='EMAHook')]
    runner, watch = Runner.from_cfg(config), Watch()
    runner.register_hook(watch)
    runner.train()
    early, late = watch.memory[500:1000], watch.memory[1500:2000]
    assert len(late) == 500
    assert max(late) <= max(early) + 2**20


def test_the_launcher_with_one_gpu_trains_the_same(deterministic):
    """Over nccl; the weights of a single process are the reference."""
    _, whole = deterministic
    work = whole.with_name('launched')
    config = str(whole.parent / 'changed.py')
    launch = ['bash', str(REPO / 'tools/dist_train.sh'), config, '1']
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = str(server.getsockname()[1])
    done = subprocess.run(
        [*launch, '--work-dir', str(work)],
        check=True,
        env=environment(NCCL_DEBUG='INFO', PORT=port),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert 'NCCL INFO' in done.stdout
    states = [
        read_checkpoint(folder / 'iter_6.pth')['state_dict']
        for folder in (work, whole)
    ]
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-6)
