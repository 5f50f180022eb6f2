"""The head that attends to positions at test."""

import copy

import pytest
import torch
from fork_rows import ROWS, side
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from ltml_mm.models import AttentionAtTestHead
from ltml_mm.models.weight_averaging import merge_branches

BACKBONE = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
HEAD = dict(type='AttentionAtTestHead', lam=0.5)


def build(head, backbone=BACKBONE, **options):
    config = dict(
        type='CollaborativeTwoBranchClassifier', backbone=backbone,
        num_classes=5, head=head, loss_cls=dict(weighting=False), **options,
    )  # fmt: skip
    return MODELS.build(copy.deepcopy(config))


def test_the_logits_are_those_of_the_formula():
    torch.manual_seed(0)
    head = MODELS.build(dict(HEAD, num_classes=3, in_channels=4))
    feats = torch.randn(2, 4, 5, 6)
    pooled = head.fc(feats.mean((2, 3)))
    torch.testing.assert_close(head.train()((feats,)), pooled)
    found = head.eval()((feats,))
    for n in range(2):
        for k in range(3):
            scores = [
                head.fc.weight[k] @ feats[n, :, i, j]
                for i in range(5)
                for j in range(6)
            ]
            powers = [s.exp() for s in scores]
            attention = sum(p * s for p, s in zip(powers, scores, strict=True))
            expected = pooled[n, k] + 0.5 * attention / sum(powers)
            torch.testing.assert_close(found[n, k], expected)


def test_two_branches_train_and_merge_with_it():
    torch.manual_seed(0)
    model = build(HEAD, neck=None)
    model.init_weights()
    images = torch.randn(2, 3, 64, 64)
    samples = [DataSample().set_gt_label([1]) for _ in range(2)]
    losses = model.train().loss(
        {'uniform': images, 'rebalanced': images},
        {'uniform': samples, 'rebalanced': samples},
    )
    sum(losses[k] for k in losses if 'loss' in k).backward()
    head = dict(HEAD, num_classes=5, in_channels=64)
    plain = MODELS.build(
        dict(type='ImageClassifier', backbone=BACKBONE, head=head)
    )
    plain.load_state_dict(merge_branches(model.eval().state_dict()))
    # The branches are equal so far, and so is their average.
    logits = plain.eval().head(plain.extract_feat(images))
    torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('row', 'maps'),
    [
        *(('resnet', True), ('swin', True), ('convnext', False)),
        *(('vit', False), ('hrnet', False), ('timm-swin', False)),
        ('timm-vit', False),
    ],
)
def test_without_attention_it_is_the_default_of_any_backbone(row, maps):
    """Its weight alone tells the networks apart, and on maps alone."""
    if row.startswith('timm'):
        pytest.importorskip('timm')
    plain, without, looking = (
        build(head, ROWS[row][0]).eval()
        for head in (None, dict(HEAD, lam=0.0), dict(HEAD))
    )
    images = torch.rand(2, 3, *side(row))
    for model in (without, looking):
        model.load_state_dict(plain.state_dict())
    with torch.no_grad():
        logits = plain(images)
        torch.testing.assert_close(without(images), logits)
        assert torch.allclose(looking(images), logits) != maps


OTHER = dict(type=type('Other', (AttentionAtTestHead,), {}))
CSRA = dict(type='CSRAClsHead', num_heads=1, lam=0.1)


@pytest.mark.parametrize('head', [HEAD, OTHER, CSRA])
def test_a_head_of_maps_gets_them_by_default(head):
    model = build(head)
    assert model.neck is None
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 5)
