"""The modules that stand in for a forked one."""

import collections
import copy
import dataclasses
import pickle
from collections import OrderedDict

import pytest
import torch
from fork_cases import (
    assert_close,
    forked,
    images,
    is_equal,
    resnet,
    scramble,
    vit,
)
from fork_rows import HRNET
from mmpretrain.models.backbones import HRNet
from mmpretrain.models.necks import HRFuseScales
from torch import nn

from ltml_mm.models.fork.branches import (
    BRANCHES,
    Fork,
    ForkedTail,
    split_branches,
)


def test_copies_see_the_whole_input_or_their_halves():
    fork = Fork(nn.Linear(2, 3), nn.Linear(2, 3))
    tail = ForkedTail(*fork.copies)
    x = torch.rand(4, 2)
    uniform, rebalanced = fork.copies
    assert_close(fork(x), torch.cat([uniform(x), rebalanced(x)]))
    assert_close(tail(x), torch.cat([uniform(x[:2]), rebalanced(x[2:])]))


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
            return {x}

    with pytest.raises(TypeError, match='got set'):
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
    relu = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 2))
    with pytest.raises(ValueError, match='in place'):
        Fork(relu, relu)(torch.rand(2, 2))

    class Stage(nn.Module):
        def forward(self, x, inner):
            return x + inner.add_(1)

    x = torch.rand(2, 2)
    for given in ((x, x.clone()), (x,)):
        further = {} if len(given) > 1 else {'inner': x.clone()}
        with pytest.raises(ValueError, match='Stage changes its input in'):
            Fork(Stage(), Stage())(*given, **further)


def test_dict_of_tensors_is_joined_and_halved():
    class Stage(nn.Module):
        def forward(self, x):
            return {'x': x['x'] + 1, 'size': 2}

    x = torch.rand(4, 2)
    found = ForkedTail(Stage(), Stage())(Fork(Stage(), Stage())({'x': x}))
    assert_close(found['x'], torch.cat([x + 2, x + 2]))
    assert found['size'] == 2


class Output(OrderedDict):
    """A mapping that its attributes follow, as those of Hugging Face."""

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        self.__dict__[key] = value


@dataclasses.dataclass
class Record:
    x: torch.Tensor
    size: int = 2


Pair = collections.namedtuple('Pair', ('x', 'size'))


@pytest.mark.parametrize('kind', [Output, Record, Pair])
def test_structures_of_their_own_class_are_joined_and_halved(kind):
    class Stage(nn.Module):
        def forward(self, given):
            if kind is Output:
                found = Output()
                found['x'], found['size'] = given.x + 1, 2
                return found
            return kind(given.x + 1, 2)

    x = torch.rand(4, 2)
    given = Stage()(Pair(x - 1, 2))
    joined = Fork(Stage(), Stage())(given)
    assert type(joined) is kind
    assert_close(joined.x, torch.cat([x + 1, x + 1]))
    found = ForkedTail(Stage(), Stage())(joined)
    assert_close(found.x, torch.cat([x + 2, x + 2]))
    assert (type(found), found.size) == (kind, 2)
    assert_close(split_branches(found, 4)['rebalanced'].x, x + 2)
    assert_close(given.x, x)


def test_every_tensor_as_long_as_the_first_is_halved():
    class Stage(nn.Module):
        def forward(self, x, table, tokens=None):
            return x + tokens + table

    tail = ForkedTail(Stage(), Stage())
    x, tokens = torch.rand(4, 3), torch.rand(4, 3)
    table = torch.rand(3)
    assert_close(tail(x, table, tokens=tokens), x + tokens + table)
    # The lengths in the plain network tell a table of just that length.
    tail.path = 'tail'
    tail.first.lengths['tail', 'in', 3] = [1, -4, 1]
    square = torch.rand(4, 1, 3)
    expected = torch.cat(
        [x[part] + tokens[part] + square for part in (slice(2), slice(2, 4))],
        dim=1,
    )

    class Wide(Stage):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs).transpose(0, 1)

    wide = ForkedTail(Wide(), Wide())
    wide.path, wide.first = tail.path, tail.first
    assert_close(wide(x, square, tokens=tokens), expected.transpose(0, 1))


def test_tail_may_change_its_half_in_place_and_is_differentiable():
    tail = ForkedTail(nn.ReLU(inplace=True), nn.ReLU(inplace=True))
    x = torch.tensor([[-1.0], [2.0]], requires_grad=True)
    tail(x * 3).sum().backward()
    assert_close(x.grad, torch.tensor([[0.0], [3.0]]))


def test_features_that_fit_no_branch_are_an_error():
    with pytest.raises(ValueError, match='batch of 4 for 4 images'):
        split_branches(resnet()(images(4)), 4)
    with pytest.raises(ValueError, match='batch of 3 beside one of 4'):
        split_branches((torch.rand(3, 1), torch.rand(4, 1)))
    with pytest.raises(ValueError, match='batch of 3 does not hold two'):
        split_branches(torch.rand(3, 1))


def test_attributes_and_methods_are_handed_through():
    class Stage(nn.Linear):
        width = 7

        def _shift(self, by):
            self.bias.data += by

        def method(self, x):
            """Would not know which half it gets."""

    fork = Fork(Stage(2, 3), Stage(2, 3))
    assert fork.width == 7
    assert fork.weight is fork.uniform.weight
    before = [module.bias.clone() for module in fork.copies]
    fork._shift(2)
    for module, bias in zip(fork.copies, before, strict=True):
        assert_close(module.bias, bias + 2)
    with pytest.raises(ValueError, match='hands no methods through'):
        fork.method(torch.rand(1))
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
    plain = HRNet(extra=HRNET)
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
