"""The fork itself: its modules, loading, initialisation, options, errors."""

import copy
import pickle

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint
from mmpretrain.models.backbones import (
    HRNet,
    ResNet,
    SwinTransformer,
    VisionTransformer,
)
from mmpretrain.models.necks import HRFuseScales
from torch import nn

from ltml_mm.models.fork import (
    BRANCHES,
    Fork,
    ForkedTail,
    fork_backbone,
    plain_name,
    split_branches,
    sync_branches,
)


@pytest.fixture(autouse=True)
def no_log_of_every_parameter():
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    yield
    logger.setLevel(level)


def resnet(**kwargs):
    return ResNet(18, stem_channels=8, base_channels=8, **kwargs)


def swin(**kwargs):
    arch = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
    return SwinTransformer(
        arch, img_size=64, window_size=2, drop_path_rate=0.0, **kwargs
    )


def vit(**kwargs):
    arch = dict(
        embed_dims=8, num_layers=3, num_heads=1, feedforward_channels=16
    )
    return VisionTransformer(arch, img_size=16, patch_size=8, **kwargs)


def forked(backbone, *args, **kwargs):
    fork_backbone(backbone, *args, **kwargs)
    return backbone


def images(size=4, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, 3, side, side, generator=generator)


def initialised(backbone):
    backbone.init_weights()
    sync_branches(backbone)
    return backbone


@torch.no_grad()
def scramble(module, seed=0):
    """Weights that neither a zero nor a one hides."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(noise, alpha=0.1)
    return module


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def is_equal(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---------------------------------------------------------------- structure


def test_fork_joins_the_uniform_copy_ahead_of_the_rebalanced_one():
    fork = Fork(nn.Linear(2, 3), nn.Linear(2, 3))
    x = torch.rand(4, 2)
    assert_close(fork(x), torch.cat([fork.uniform(x), fork.rebalanced(x)]))


def test_tail_gives_each_copy_its_half():
    tail = ForkedTail(nn.Linear(2, 3), nn.Linear(2, 3))
    x = torch.rand(4, 2)
    expected = [tail.uniform(x[:2]), tail.rebalanced(x[2:])]
    assert_close(tail(x), torch.cat(expected))


def test_plain_values_beside_the_tensors_pass_unchanged():
    class Stage(nn.Module):
        def forward(self, x, shape, scale=1):
            return [x * scale, (x + 1, None)], shape

    x = torch.rand(4, 2)
    fork, tail = Fork(Stage(), Stage()), ForkedTail(Stage(), Stage())
    (doubled, (plus, nothing)), shape = fork(x, (2, 1), scale=2)
    assert_close(doubled, torch.cat([2 * x, 2 * x]))
    assert_close(plus, torch.cat([x + 1, x + 1]))
    assert (nothing, shape) == (None, (2, 1))
    assert tail(x, (2, 1))[1] == (2, 1)


def test_copies_that_return_different_plain_values_are_an_error():
    class Counter(nn.Module):
        count = 0

        def forward(self, x):
            self.count += 1
            return x, self.count

    first = Counter()
    first.count = 5
    with pytest.raises(ValueError, match='different values'):
        Fork(first, Counter())(torch.rand(2, 2))


def test_stage_that_returns_something_else_is_an_error():
    class Stage(nn.Module):
        def forward(self, x):
            return {'x': x}

    with pytest.raises(TypeError, match='got dict'):
        Fork(Stage(), Stage())(torch.rand(2, 2))


def test_list_that_the_first_copy_changes_is_whole_for_the_second():
    # As HRNet's modules do with the list that they are given.
    class Stage(nn.Module):
        def forward(self, x):
            x[0] = x[0] + 1
            return x

    x = torch.zeros(1, 2)
    assert_close(Fork(Stage(), Stage())([x])[0], torch.ones(2, 2))


def test_tensor_that_the_first_copy_changes_is_an_error():
    stage = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 2))
    x = torch.rand(2, 2)
    with pytest.raises(ValueError, match='in place'):
        Fork(stage, stage)(x)


def test_tail_may_change_its_half_in_place_and_is_differentiable():
    tail = ForkedTail(nn.ReLU(inplace=True), nn.ReLU(inplace=True))
    x = torch.tensor([[-1.0], [2.0]], requires_grad=True)
    tail(x * 3).sum().backward()
    assert_close(x.grad, torch.tensor([[0.0], [3.0]]))


def test_features_ahead_of_the_fork_go_to_both_branches():
    backbone = resnet(out_indices=(1, 3))
    plain = copy.deepcopy(backbone)
    fork_backbone(backbone)
    x = images(3)
    outputs = split_branches(backbone(x), len(x))
    for branch in BRANCHES:
        assert_close(outputs[branch], plain(x))


def test_features_that_do_not_reach_the_fork_are_an_error():
    backbone = forked(resnet(out_indices=(1,)), ['layer4'])
    with pytest.raises(ValueError, match='batch of 4 for 4 images'):
        split_branches(backbone(images(4)), 4)


def test_features_that_fit_no_branch_are_an_error():
    with pytest.raises(ValueError, match='batch of 3 beside one of 4'):
        split_branches((torch.rand(3, 1), torch.rand(4, 1)))
    with pytest.raises(ValueError, match='batch of 3 does not hold two'):
        split_branches(torch.rand(3, 1))


def test_submodule_called_from_outside_is_that_of_each_branch():
    # Swin's forward itself calls the downsampling of a stage.
    names = ['stages.2', 'stages.3', 'norm3']
    plain, backbone = swin(), forked(swin(), names)
    for name in names:
        scramble(backbone.get_submodule(name).rebalanced)
    x = images(2, side=64)
    outputs = split_branches(backbone(x), 2)
    for branch, other in zip(BRANCHES, BRANCHES[::-1], strict=True):
        state = backbone.state_dict()
        plain.load_state_dict(
            {plain_name(k): v for k, v in state.items() if other not in k}
        )
        assert_close(outputs[branch], plain(x))


def test_attributes_are_handed_through_and_methods_are_not():
    class Stage(nn.Linear):
        width = 7

        def method(self):
            """Would run on one copy only."""

    fork = Fork(Stage(2, 3), Stage(2, 3))
    assert fork.width == 7
    assert fork.weight is fork.uniform.weight
    assert not hasattr(fork, 'method')
    with pytest.raises(AttributeError, match='hands no methods through'):
        fork.method()
    with pytest.raises(AttributeError, match='missing'):
        fork.missing()


def test_stage_that_a_forward_walks_through_forks_at_its_first_block():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(2, 2)
            self.stage = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
            self.head = nn.Linear(2, 2)

        def forward(self, x):
            x = self.stem(x)
            for block in self.stage:
                x = block(x)
            assert len(self.stage) == 3
            return self.head(x)

    plain, x = Net(), torch.rand(3, 2)
    backbone = forked(copy.deepcopy(plain), ['stage', 'head'])
    outputs = split_branches(backbone(x), 3)
    for branch in BRANCHES:
        assert_close(outputs[branch], plain(x))


def test_a_module_without_length_is_still_true():
    assert Fork(nn.Linear(1, 1), nn.Linear(1, 1))


def test_weights_that_forked_modules_share_stay_shared_in_each_copy():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            self.b.weight = self.a.weight

    net = forked(Net(), ['a', 'b'])
    assert net.b.uniform.weight is net.a.uniform.weight
    assert net.b.rebalanced.weight is net.a.rebalanced.weight
    assert net.a.rebalanced.weight is not net.a.uniform.weight


def test_parametric_neck_of_hrnet_is_copied_per_branch():
    stages = {
        f'stage{i + 1}': dict(
            num_modules=1,
            num_branches=i + 1,
            block='BASIC' if i else 'BOTTLENECK',
            num_blocks=(1,) * (i + 1),
            num_channels=tuple(4 * 2**j for j in range(i + 1)),
        )
        for i in range(4)
    }
    plain = HRNet(extra=stages)
    neck = HRFuseScales([4, 8, 16, 32], out_channels=8)
    model = nn.Module()
    model.backbone = forked(copy.deepcopy(plain))
    model.neck = ForkedTail(neck, copy.deepcopy(neck))
    x = images(2, side=64)
    expected = neck(plain(x))
    outputs = split_branches(model.neck(model.backbone(x)), 2)
    for branch in BRANCHES:
        assert_close(outputs[branch], expected)
    state = {f'neck.{k}': v for k, v in neck.state_dict().items()}
    result = model.load_state_dict(state, strict=False)
    assert not result.unexpected_keys
    assert not [k for k in result.missing_keys if k.startswith('neck')]


# ------------------------------------------------------------------ copies


@pytest.mark.parametrize('clone', ['deepcopy', 'pickle', 'compile'])
def test_clone_of_a_forked_backbone_gives_the_same(clone):
    backbone = forked(resnet(), bn_streams='separate')
    scramble(backbone.layer4.rebalanced)
    x = images(4)
    twin = {
        'deepcopy': copy.deepcopy,
        'pickle': lambda module: pickle.loads(pickle.dumps(module)),
        'compile': lambda module: torch.compile(
            copy.deepcopy(module), backend='eager', fullgraph=True
        ),
    }[clone](backbone)
    assert_close(twin(x), backbone(x))
    # A copy of its own, whose loading hooks are its own, too.
    twin = getattr(twin, '_orig_mod', twin)
    scramble(twin.layer4.uniform)
    assert not is_equal(twin.layer4.uniform, backbone.layer4.uniform)
    twin.load_state_dict(resnet().state_dict())
    assert is_equal(twin.layer4.uniform, twin.layer4.rebalanced)
    assert not is_equal(twin.layer4.uniform, backbone.layer4.uniform)


def test_compiled_backbone_of_transformer_blocks_gives_the_same():
    backbone = forked(vit(out_type='avg_featmap'))
    scramble(backbone.layers[2].rebalanced)
    compiled = torch.compile(backbone, backend='eager')
    x = images(2, side=16)
    assert_close(compiled(x), backbone(x))


# ---------------------------------------------------- weights and their start


def test_copies_differ_between_initialisation_and_synchronisation():
    # Why sync_branches is needed: initialisers draw for each copy.
    backbone = forked(resnet())
    backbone.init_weights()
    layer = backbone.layer4
    assert not is_equal(layer.uniform, layer.rebalanced)
    uniform = copy.deepcopy(layer.uniform)
    sync_branches(backbone)
    assert is_equal(layer.uniform, uniform)
    assert is_equal(layer.rebalanced, uniform)


def test_synchronisation_happens_once():
    backbone = initialised(forked(resnet()))
    scramble(backbone.layer4.rebalanced)
    sync_branches(backbone)
    assert not is_equal(backbone.layer4.uniform, backbone.layer4.rebalanced)


@pytest.fixture
def plain_checkpoint(tmp_path):
    plain = scramble(resnet(), seed=1)
    state = {f'backbone.{k}': v for k, v in plain.state_dict().items()}
    path = str(tmp_path / 'plain.pth')
    torch.save(dict(state_dict=state), path)
    return plain, path


def pretrained(path):
    return dict(type='Pretrained', checkpoint=path, prefix='backbone.')


def test_reinit_keeps_the_fresh_copy_beside_a_plain_checkpoint(
    plain_checkpoint,
):
    plain, path = plain_checkpoint
    backbone = resnet(init_cfg=pretrained(path))
    fork_backbone(backbone, branch_init='reinit')
    fresh = copy.deepcopy(backbone.layer4.rebalanced)
    assert not is_equal(backbone.layer4.uniform, fresh)
    initialised(backbone)
    assert is_equal(backbone.layer3, plain.layer3)
    assert is_equal(backbone.layer4.uniform, plain.layer4)
    assert is_equal(backbone.layer4.rebalanced, fresh)
    model = nn.Module()
    model.backbone = backbone
    load_checkpoint(model, path, strict=True)
    assert is_equal(backbone.layer4.rebalanced, fresh)


def test_reinit_without_a_checkpoint_starts_the_copies_apart():
    backbone = initialised(forked(resnet(), branch_init='reinit'))
    assert not is_equal(backbone.layer4.uniform, backbone.layer4.rebalanced)
    norm = backbone.layer4.rebalanced[0].bn1
    assert torch.equal(norm.running_mean, torch.zeros(64))


@pytest.mark.parametrize('branch_init', ['copy', 'reinit'])
def test_checkpoint_of_both_branches_loads_as_it_is(branch_init, tmp_path):
    source = forked(resnet())
    scramble(source.layer4.rebalanced, seed=2)
    state = {f'backbone.{k}': v for k, v in source.state_dict().items()}
    path = str(tmp_path / 'both.pth')
    torch.save(dict(state_dict=state), path)
    backbone = resnet(init_cfg=pretrained(path))
    initialised(forked(backbone, branch_init=branch_init))
    for branch in range(2):
        copies = backbone.layer4.copies[branch], source.layer4.copies[branch]
        assert is_equal(*copies)


def test_key_of_a_branch_wins_over_a_plain_one():
    source, backbone = resnet(), forked(resnet())
    state = source.state_dict()
    special = torch.full_like(state['layer4.0.conv1.weight'], 5)
    state['layer4.rebalanced.0.conv1.weight'] = special
    backbone.load_state_dict(state)
    layer = backbone.layer4
    assert torch.equal(layer.rebalanced[0].conv1.weight, special)
    assert is_equal(layer.uniform, source.layer4)
    assert is_equal(layer.rebalanced[1], source.layer4[1])


def test_checkpoint_of_one_branch_misses_the_other():
    backbone = forked(resnet())
    state = backbone.state_dict()
    half = {k: v for k, v in state.items() if '.rebalanced.' not in k}
    result = backbone.load_state_dict(half, strict=False)
    # torch itself fills in the counters of batches.
    assert set(result.missing_keys) == {
        k
        for k in state
        if '.rebalanced.' in k and not k.endswith('num_batches_tracked')
    }
    assert not result.unexpected_keys


def test_unknown_plain_key_is_still_reported():
    state = resnet().state_dict()
    state['layer4.9.weight'] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r'layer4\.uniform\.9\.weight'):
        forked(resnet()).load_state_dict(state)


def test_assigned_weights_are_not_shared_by_the_copies():
    backbone = forked(resnet())
    backbone.load_state_dict(resnet().state_dict(), assign=True)
    uniform, rebalanced = backbone.layer4.copies
    pointers = [m[0].conv1.weight.data_ptr() for m in (uniform, rebalanced)]
    assert pointers[0] != pointers[1]


def test_the_caller_s_state_dict_is_left_alone():
    state = resnet().state_dict()
    keys = list(state)
    forked(resnet()).load_state_dict(state)
    assert list(state) == keys


# ------------------------------------------------- frozen stages, norm_eval


@pytest.mark.parametrize(
    ('backbone', 'names'),
    [
        (resnet(frozen_stages=4), ['layer4']),
        (swin(frozen_stages=3), ['stages.3', 'norm3']),
        (vit(frozen_stages=3), ['layers.2', 'ln1']),
    ],
    ids=['resnet', 'swin', 'vit'],
)
def test_frozen_stages_hold_both_copies(backbone, names):
    assert fork_backbone(backbone) == names
    backbone.train()
    for name in names:
        for module in backbone.get_submodule(name).copies:
            assert not any(p.requires_grad for p in module.parameters())
    if isinstance(backbone, ResNet):
        state = copy.deepcopy(backbone.state_dict())
        backbone(images(4))
        for key, value in backbone.state_dict().items():
            assert torch.equal(value, state[key]), key


def test_norm_eval_holds_the_running_statistics_of_both_copies():
    backbone = forked(resnet(norm_eval=True))
    backbone.train()
    state = copy.deepcopy(backbone.state_dict())
    backbone(images(4))
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key]), key


# ------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ('fork_at', 'message'),
    [
        ([], r"fork_at is empty.*fork_at=\['layer3', 'layer4'\]"),
        (
            ['layer5'],
            r"'layer5', which ResNet does not have.*children are conv1 "
            r'\(Conv2d\).*layer4\.0 \.\.\. layer4\.1 \(ResLayer\)',
        ),
        ('layer5', "'layer5', which ResNet does not have"),
        ([''], "'', which ResNet does not have"),
        (['layer4', 'layer4'], "'layer4' twice"),
        (['layer4', 'layer4.1'], "'layer4.1', which is inside 'layer4'"),
        (['layer4.1', 'layer4'], "'layer4.1', which is inside 'layer4'"),
        (['layer4.1', 'layer4.0'], "'layer4.1' ahead of 'layer4.0'"),
    ],
)
def test_names_that_do_not_fit_are_an_error(fork_at, message):
    backbone = resnet()
    keys = list(backbone.state_dict())
    with pytest.raises(ValueError, match=message):
        fork_backbone(backbone, fork_at)
    assert list(backbone.state_dict()) == keys


def test_forking_twice_is_an_error():
    backbone = forked(resnet())
    for fork_at in ('auto', ['layer4.uniform.0'], ['layer4']):
        with pytest.raises(ValueError, match='is forked'):
            fork_backbone(backbone, fork_at)


def test_order_that_only_forward_knows_is_an_error_there():
    backbone = forked(vit(), ['ln1', 'layers.2'])
    with pytest.raises(
        ValueError, match=r'TransformerEncoderLayer ran before "ln1"'
    ):
        backbone(images(4, side=16))


@pytest.mark.parametrize('option', ['branch_init', 'bn_streams'])
def test_unknown_option_is_an_error(option):
    with pytest.raises(ValueError, match=f"{option} must be .*'other'"):
        fork_backbone(resnet(), **{option: 'other'})
