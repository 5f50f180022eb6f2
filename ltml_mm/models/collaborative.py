"""The two-branch network of LTML, and its augmented test."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from mmengine.model import BaseTTAModel, ModuleDict
from mmengine.registry import MODELS as ROOT_MODELS
from mmpretrain.models import BaseClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from ltml_mm.models import parts, streams
from ltml_mm.models.fork.backbone import fork_backbone, fork_neck
from ltml_mm.models.fork.branches import (
    BRANCHES,
    plain_name,
    split_branches,
    sync_branches,
)
from ltml_mm.models.fork.norms import separate_stream_norms
from ltml_mm.models.losses.base import upcast


@ROOT_MODELS.register_module()
class CollaborativeTwoBranchClassifier(BaseClassifier):
    """Collaborative training on uniform and re-balanced samplings.

    Implements `Long-Tailed Multi-Label Visual Recognition by Collaborative
    Training on Uniform and Re-balanced Samplings` (Guo and Wang, CVPR 2021).
    The backbone is forked at its last stage into two copies, one for each
    sampling. Every image passes through both; each branch learns to classify
    the images of its own stream, and the logits of both branches are held
    together on all images. At test the branches are averaged.

    The least that a config says is ``dict(type=
    'CollaborativeTwoBranchClassifier', backbone=dict(...), num_classes=20)``.

    Args:
        backbone (dict): Config of any MMPretrain backbone.
        num_classes (int): K, the number of classes.
        neck (dict | list[dict] | None | str): Config of the neck, None for
            no neck, or ``'auto'``: global average pooling of feature maps,
            :class:`TokenPooling` of tokens, none for vectors. A neck with
            parameters is copied for each branch. Defaults to ``'auto'``.
        head (dict, optional): Config of one branch's head. ``num_classes``
            and ``in_channels`` are filled in where missing; a ``loss`` of
            its own would not be used and is refused. By default of type
            ``MultiLabelLinearClsHead``, one linear layer.
        loss_cls (dict, optional): Config of one branch's classification
            loss, called as ``loss(logits, target)`` with (N, K) each, by
            default a :class:`LogitCompensatedBCELoss`; one for each branch.
        loss_consistency (dict, optional): Config of the loss between the
            branches, by default of type
            :class:`CrossBranchConsistencyLoss`.
        fork (dict, optional): How the network forks, with the keys

            - ``at`` (str | Sequence[str]): the names of the backbone's
              modules from the branching point on, or ``'auto'``, the
              default, for the last stage, found by a run;
            - ``init``: how the re-balanced copy starts, ``'copy'``, the
              default: as the uniform one (the paper: both from the same
              ImageNet weights), or ``'reinit'``;
            - ``bn_streams``: what BatchNorm normalises over in training,
              ``'joint'``, the default: both streams of a step together, or
              ``'separate'``: each by itself;
            - ``fuse``: what is averaged over the branches at test,
              ``'logits'``, the default, or ``'probs'``.
        **kwargs: ``data_preprocessor``, ``train_cfg`` and ``init_cfg`` as in
            MMPretrain's ``ImageClassifier``. The data preprocessor is by
            default of type :class:`TwoStreamDataPreprocessor`; the batch
            augmentations of ``train_cfg`` act within each stream.
            ``fork_at``, ``branch_init``, ``bn_streams`` and ``fuse`` are
            other spellings of the keys of ``fork``.

    Raises:
        TypeError: A keyword is unknown, or an option is given twice.
        ValueError: An option has an unknown value, or the fork does not fit
            the backbone; says what to write.
    """

    #: Taken in ``**kwargs``, like those of MMPretrain's ``ImageClassifier``.
    FORMER_OPTIONS = tuple(parts.FORK_SPELLINGS)

    def __init__(
        self,
        backbone: dict,
        num_classes: int,
        neck: dict | list | str | None = 'auto',
        head: dict | None = None,
        loss_cls: dict | None = None,
        loss_consistency: dict | None = None,
        fork: dict | None = None,
        **kwargs: Any,
    ) -> None:
        named = [*signature(CollaborativeTwoBranchClassifier).parameters]
        keys = ['data_preprocessor', *named[:-1]]  # all but kwargs itself
        keys += [*parts.FORK_SPELLINGS, 'init_cfg', 'train_cfg']
        parts.check_keywords(type(self).__name__, kwargs, keys)
        fork = parts.fork_options(fork, kwargs)
        super().__init__(
            init_cfg=kwargs.get('init_cfg'),
            data_preprocessor=streams.build_preprocessor(
                kwargs.get('data_preprocessor'),
                kwargs.get('train_cfg'),
                num_classes,
            ),
        )
        self.num_classes = _check_num_classes(num_classes)
        self.fuse = fork['fuse']
        self.bn_streams = fork['bn_streams']
        self.backbone = parts.free_batch(MODELS.build(backbone))
        # Neck and heads are fitted to the features of the plain backbone,
        # so they are configured before it is forked.
        plain_neck = parts.build_neck(neck, self.backbone, head)
        head = parts.head_config(head, num_classes, self.backbone, plain_neck)
        self.heads = ModuleDict({b: MODELS.build(head) for b in BRANCHES})
        self.fork_at = fork_backbone(
            self.backbone, fork['at'], fork['init'], fork['bn_streams']
        )
        self.neck = fork_neck(plain_neck, fork['init'])
        self.loss_cls = parts.build_losses(loss_cls, num_classes)
        self.loss_consistency = MODELS.build(
            {**parts.DEFAULT_CONSISTENCY, **(loss_consistency or {})}
        )
        # As in MMPretrain's ImageClassifier: some backbones rename the keys
        # of checkpoints from elsewhere. The hooks of the fork run later, at
        # the backbone, and see the renamed keys.
        if hasattr(self.backbone, '_checkpoint_filter'):
            self._register_load_state_dict_pre_hook(
                self.backbone._checkpoint_filter
            )

    def init_weights(self) -> None:
        """Initialises the weights; both branches start from the same."""
        super().init_weights()
        sync_branches(self)

    def train(self, mode: bool = True) -> CollaborativeTwoBranchClassifier:
        """Sets the mode of training."""
        if self.bn_streams == 'separate':
            # Again: ``sync_bn`` of MMEngine has made new layers since.
            separate_stream_norms(self)
        return super().train(mode)

    def forward(
        self, inputs: Any, data_samples: Any = None, mode: str = 'tensor'
    ) -> Any:
        """The unified entry of training and test.

        Args:
            inputs (Tensor | dict[str, Tensor]): Images (N, C, H, W); for
                ``mode='loss'`` those of each stream.
            data_samples (list | dict[str, list], optional): The samples of
                the images, shaped like ``inputs``.
            mode (str): ``'tensor'``, ``'predict'`` or ``'loss'``.

        Returns:
            Tensor | list[DataSample] | dict[str, Tensor]: The fused logits
            (N, K), the predictions, or the terms of the loss.
        """
        if mode == 'tensor':
            logits = self.branch_logits(inputs)
            return streams.fuse_logits([*logits.values()], self.fuse)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        raise ValueError(
            f"mode must be 'tensor', 'predict' or 'loss', got {mode!r}"
        )

    def extract_feat(self, inputs: Tensor) -> dict[str, tuple]:
        """Extracts each branch's features.

        Args:
            inputs (Tensor): Images (N, C, H, W).

        Returns:
            dict[str, tuple]: What the plain backbone and neck return for
            these images, by branch.

        Raises:
            ValueError: The features do not reach the fork.
        """
        feats = self.backbone(inputs)
        if self.neck is not None:
            feats = self.neck(feats)
        return split_branches(feats, inputs.shape[0])

    def branch_logits(self, inputs: Tensor) -> dict[str, Tensor]:
        """Computes the logits of each branch.

        Args:
            inputs (Tensor): Images (N, C, H, W).

        Returns:
            dict[str, Tensor]: Logits (N, K) by branch, float32, or float64
            where the network is: no loss and no average sees half precision.
        """
        feats = self.extract_feat(inputs)
        return {n: upcast(self.heads[n](feats[n])) for n in BRANCHES}

    def loss(
        self,
        inputs: dict[str, Tensor],
        data_samples: dict[str, list[DataSample]],
    ) -> dict[str, Tensor]:
        """Computes the terms of the loss of one step.

        L = L_cls(u, y^u) + L_cls(r, y^r) + lambda (L_con(u, u_hat) +
        L_con(r, r_hat)); the crossed outputs u_hat and r_hat have no
        classification loss. The weight lambda is the consistency loss's.

        Args:
            inputs (dict[str, Tensor]): Images (N, C, H, W) by stream.
            data_samples (dict[str, list[DataSample]]): Samples by stream.

        Returns:
            dict[str, Tensor]: ``uniform.loss_cls``,
            ``rebalanced.loss_cls`` and ``loss_consistency``, scalars; for
            the log, what :func:`branch_agreement` returns.

        Raises:
            ValueError: The batch is flat or has other streams.
        """
        streams.check_streams(inputs)
        images = torch.cat([inputs[name] for name in BRANCHES])
        sizes = [len(inputs[name]) for name in BRANCHES]
        logits = self.branch_logits(images)
        # A GPU computes the logits meanwhile.
        targets = streams.stream_targets(
            data_samples, self.num_classes, images.device
        )
        logits_of = {
            branch: dict(zip(BRANCHES, z.split(sizes), strict=True))
            for branch, z in logits.items()
        }
        losses = {}
        consistency = []
        for name, other in zip(BRANCHES, reversed(BRANCHES), strict=True):
            own, crossed = logits_of[name][name], logits_of[other][name]
            loss = self.loss_cls[name](own, targets[name])
            losses[f'{name}.loss_cls'] = loss
            consistency.append(self.loss_consistency(own, crossed))
        losses['loss_consistency'] = torch.stack(consistency).sum()
        return {**losses, **streams.branch_agreement(*logits.values())}

    def predict(
        self, inputs: Tensor, data_samples: list[DataSample] | None = None
    ) -> list[DataSample]:
        """Predicts with the average of the branches.

        Args:
            inputs (Tensor): Images (N, C, H, W).
            data_samples (list[DataSample], optional): Samples to write to.

        Returns:
            list[DataSample]: With ``pred_score`` (K,), the fused scores;
            ``pred_label``, the classes with at least the head's threshold
            (``thr``, 0.5), or the best ``topk`` where only that is set; and
            ``branch_scores`` and ``branch_logits``, each branch's scores and
            logits (K,) by name.
        """
        logits = self.branch_logits(inputs)
        if data_samples is None:
            data_samples = [DataSample() for _ in range(len(inputs))]
        self.write_predictions(data_samples, logits)
        return data_samples

    def write_predictions(
        self, samples: Sequence[DataSample], branch_logits: dict[str, Tensor]
    ) -> None:
        """Writes the fields that :meth:`predict` lists, of logits (N, K)."""
        scores = streams.fuse_scores([*branch_logits.values()], self.fuse)
        head = self.heads[BRANCHES[0]]
        threshold, topk = getattr(head, 'thr', 0.5), getattr(head, 'topk', 0)
        if threshold is None and topk:
            labels = scores.topk(topk).indices.unbind()
        else:
            # Of all images at once: each search waits for a GPU.
            named = scores >= threshold
            labels = torch.where(named)[1].split(named.sum(1).tolist())
        own = {name: z.sigmoid() for name, z in branch_logits.items()}
        fields = dict(branch_scores=own, branch_logits=branch_logits)
        for i, sample in enumerate(samples):
            sample.set_pred_score(scores[i]).set_pred_label(labels[i])
            for field, rows in fields.items():
                sample.set_field({n: z[i] for n, z in rows.items()}, field)

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        """Returns the depth of a parameter's layer and the largest depth."""
        name = plain_name(param_name)
        return self.backbone.get_layer_depth(name, 'backbone.')


@ROOT_MODELS.register_module()
class CollaborativeTTA(BaseTTAModel):
    """Averages over the views of an image what ``fuse`` averages.

    With ``fuse='logits'`` the logits of all branches and views are averaged,
    with ``fuse='probs'`` their probabilities; figures by branch average over
    the views alike. The paper reports an augmented test without describing
    it: the horizontal flip in our configs is our reading.

    Args:
        module (dict | nn.Module): A
            :class:`CollaborativeTwoBranchClassifier`.
    """

    def merge_preds(
        self, data_samples_list: list[tuple[DataSample, ...]]
    ) -> list[DataSample]:
        """Merges the views of each image to one sample as of ``predict``."""
        views = [*zip(*data_samples_list, strict=True)]
        logits = {}
        for name in BRANCHES:
            each = [
                torch.stack([sample.branch_logits[name] for sample in view])
                for view in views
            ]
            logits[name] = streams.fuse_logits(each, self.module.fuse)
        merged = [sample.new() for sample in views[0]]
        self.module.write_predictions(merged, logits)
        return merged


def _check_num_classes(value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f'num_classes must be a positive int, got {value!r}')
    return value
