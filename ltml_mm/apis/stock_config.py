"""Writes the config of a two-branch network's single-branch twin."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.models.heads import MultiLabelClsHead
from mmpretrain.registry import DATA_SAMPLERS, DATASETS, MODELS, TRANSFORMS

from ltml_mm.apis.config import FILE_DATASETS, config_parts
from ltml_mm.apis.model import scope_of, without_pretrained
from ltml_mm.class_statistics import COUNTS_KEY, IMAGES_KEY
from ltml_mm.datasets.two_stream import innermost_dataset
from ltml_mm.models.collaborative import CollaborativeTwoBranchClassifier
from ltml_mm.models.parts import build_neck, head_config, neck_config

PLUGIN = 'ltml_mm'
#: What MMPretrain's ``MultiLabelDataset`` does not take, or takes elsewhere.
OWN_SETTINGS = ('allow_outside', 'classes', 'image_cache', 'metainfo', 'type')
TWO_STREAM = 'TwoStreamDataPreprocessor'


def stock_config(
    cfg: Config, dataset_meta: Mapping[str, Any] | None = None
) -> Config:
    """Turns the config of a two-branch network into that of a stock one.

    The model is an ``ImageClassifier`` with the backbone, neck and head of
    one branch, and no weights to start from. It is tested on the config's
    test set, with MMPretrain's ``MultiLabelDataset``, ``LoadImageFromFile``
    and ``AveragePrecision`` in the place of the plugin's. What MMPretrain
    has no counterpart for stays, and ``custom_imports`` with it; see
    :func:`plugin_types`.

    Args:
        cfg: A complete config, see :func:`~ltml_mm.apis.load_config`.
        dataset_meta: Classes and training counts from the checkpoint.

    Raises:
        ValueError: The config's model is another, its head scores by other
            than a sigmoid, or its test set has other classes.
    """
    model = cfg.model.to_dict()
    found = MODELS.get(model['type'])
    if not isinstance(found, type) or not issubclass(
        found, CollaborativeTwoBranchClassifier
    ):
        raise ValueError(
            f'the model of the config is a {model["type"]}, which has no two '
            'branches to merge; give the config of a '
            'CollaborativeTwoBranchClassifier'
        )
    content: dict[str, Any] = {
        'default_scope': scope_of(cfg),
        'model': _model(model, scope_of(cfg)),
        'data_preprocessor': _preprocessor(cfg, model),
        'tta_model': dict(type='AverageClsScoreTTA'),
    }
    for split in ('test', 'val'):
        if cfg.get(f'{split}_dataloader') is None:
            continue
        loader = cfg[f'{split}_dataloader'].to_dict()
        dataset = innermost_dataset(loader)
        stock = _dataset(dict(dataset), dataset_meta or {})
        dataset.clear()
        dataset.update(stock)
        # Validation stays where it has images of its own.
        tested = content.get('test_dataloader') or {}
        if loader['dataset'] != tested.get('dataset'):
            content[f'{split}_dataloader'] = loader
            content[f'{split}_cfg'] = {}
            content[f'{split}_evaluator'] = dict(type='AveragePrecision')
    content['default_hooks'] = dict(
        visualization=dict(type='VisualizationHook', enable=False)
    )
    content['visualizer'] = dict(
        type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
    )
    for key in ('env_cfg', 'log_level'):
        if cfg.get(key) is not None:
            content[key] = cfg[key]
    # The user's modules, and the plugin where it is needed.
    imports = (cfg.get('custom_imports') or {}).get('imports', [])
    imports = [imports] if isinstance(imports, str) else imports
    imports = [name for name in imports if name.split('.')[0] != PLUGIN]
    imports += [PLUGIN] if plugin_types(content) else []
    if imports:
        content = {'custom_imports': dict(imports=imports), **content}
    return Config(content)


def plugin_types(content: Mapping[str, Any]) -> list[str]:
    """Names the types in a config that only this plugin provides."""
    types = [part.get('type') for part in config_parts(content)]
    return [
        name
        for name in dict.fromkeys(types)
        if isinstance(name, str)
        for registry in (MODELS, DATASETS, TRANSFORMS, DATA_SAMPLERS)
        if PLUGIN in getattr(registry.get(name), '__module__', '').split('.')
    ]


def _model(model: Mapping[str, Any], scope: str) -> dict[str, Any]:
    model = without_pretrained(model)
    with DefaultScope.overwrite_default_scope(scope):
        backbone = MODELS.build(model['backbone'])
        head = model.get('head')
        neck = neck_config(model.get('neck', 'auto'), backbone, head)
        head = head_config(
            head, model['num_classes'], backbone, build_neck(neck, backbone)
        )
        if not isinstance(MODELS.build(head), MultiLabelClsHead):
            raise ValueError(
                f'a {head["type"]} alone does not score by a sigmoid, as both '
                'branches do: take a multi-label head of the same weights, '
                'for a LinearClsHead '
                '--cfg-options model.head.type=MultiLabelLinearClsHead'
            )
    parts = dict(backbone=model['backbone'], neck=neck, head=head)
    return dict(type='ImageClassifier', **parts)


def _preprocessor(cfg: Config, model: Mapping[str, Any]) -> dict[str, Any]:
    settings = model.get('data_preprocessor')
    settings = dict(settings or cfg.get('data_preprocessor') or {})
    settings.pop('batch_augments', None)  # of training alone
    if settings.get('type', TWO_STREAM) == TWO_STREAM:
        settings['type'] = 'ClsDataPreprocessor'
    settings.update(num_classes=model['num_classes'], to_onehot=True)
    return settings


def _dataset(
    dataset: dict[str, Any], dataset_meta: Mapping[str, Any]
) -> dict[str, Any]:
    if 'pipeline' in dataset:
        dataset['pipeline'] = [
            {**step, 'type': 'LoadImageFromFile'}
            if step['type'] == 'LoadCheckedImage'
            else step
            for step in dataset['pipeline']
        ]
    if dataset['type'] not in FILE_DATASETS:
        return dataset
    cls = DATASETS.get(dataset['type'])
    parameters = signature(cls).parameters
    folders = {
        name: dataset.get(name, getattr(parameters.get(name), 'default', ''))
        for name in ('data_root', 'ann_file', 'data_prefix')
    }
    kept = {k: v for k, v in dataset.items() if k not in OWN_SETTINGS}
    own = {**cls.METAINFO, **dataset.get('metainfo', {})}
    if dataset.get('classes') is not None:
        own['classes'] = dataset['classes']
    meta = {**own, **dataset_meta}
    names = own.get('classes')
    if names is not None and [*names] != [*meta['classes']]:
        raise ValueError(
            f'the test set of the config has the classes {names}, the '
            f'checkpoint was trained on {meta["classes"]}'
        )
    keys = ('classes', COUNTS_KEY, IMAGES_KEY)
    metainfo = {key: meta[key] for key in keys if meta.get(key) is not None}
    stock = dict(type='MultiLabelDataset', **folders, metainfo=metainfo)
    return {**stock, **kept}
