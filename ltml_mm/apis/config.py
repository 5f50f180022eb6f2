"""Loads configs and fills in what follows from the data."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.fileio import JsonHandler, register_handler
from mmengine.fileio.handlers.json_handler import set_default
from mmengine.fileio.handlers.yaml_handler import Dumper
from mmengine.registry import RUNNERS, DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import DATA_SAMPLERS, DATASETS

from ltml_mm.apis.learning_rate import build_runner, count_processes
from ltml_mm.apis.overrides import DATA_KEYS, apply_overrides
from ltml_mm.class_statistics import COUNTS_KEY, ClassStatistics
from ltml_mm.datasets.annotations import training_metainfo
from ltml_mm.datasets.images import first_line
from ltml_mm.datasets.two_stream import allow_other_counts, innermost_datasets
from ltml_mm.engine.optimizers.few_groups import check_trunk_rate
from ltml_mm.evaluation.grouped_average_precision import separate_metrics

#: The dataset whose classes and counts are known from its files alone.
GENERIC_DATASET = 'LongTailMultiLabelDataset'
#: The datasets of which the folders stand at the top of a config.
FILE_DATASETS = (GENERIC_DATASET, 'VOCLTDataset', 'COCOLTDataset')
#: Those for validation, where the set has one, and for tests.
VALIDATION, TEST = 'val.json', 'test.json'

#: Where ``augment_on`` lets the steps be done that can be done in batches.
PLACES = ('worker', 'device')
ON_DEVICE = ('PhotoMetricDistortion', 'RandomMirror')


def load_config(
    path: str | Path,
    cfg_options: Mapping[str, Any] | None = None,
    dataset_meta: Mapping[str, Any] | None = None,
) -> Config:
    """Reads a config file and completes it from the data.

    The top-level ``data_root``, ``data_prefix`` and ``allow_outside`` go to
    the datasets that read annotation files. An ``ann_file`` of None becomes
    ``val.json`` for validation, where the set has one, and else
    ``test.json``. Where the config trains on
    :class:`LongTailMultiLabelDataset`, a ``num_classes`` of None becomes the
    number of classes, and the test sets receive names and training counts of
    the classes. ``image_cache`` goes to the sets that are read again and
    again, of training and validation, ``augment_on`` to the steps of the
    training pipeline. :func:`separate_metrics` says what metrics receive.

    Args:
        path: The config file.
        cfg_options: Overrides, as ``--cfg-options`` gives them.
        dataset_meta: Classes and counts from a checkpoint's ``meta``; then
            no training annotations are read.

    Raises:
        FileNotFoundError: The config or an annotation file does not exist.
        ValueError: The config, an override or an annotation file is broken,
            or training and test set name different classes.
    """
    cfg = read_config(path)
    for key in {*DATA_KEYS} & {*(cfg_options or ())}:
        for dataset in dataset_configs(cfg):
            # What a complete config says of itself is no set's own.
            if key in dataset and dataset[key] == cfg.get(key):
                del dataset[key]
    apply_overrides(cfg, cfg_options or {})
    complete_config(cfg, dataset_meta)
    return cfg


def read_config(path: str | Path) -> Config:
    """Reads a config as it stands; raises what :func:`load_config` does."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'config not found: {path}')
    try:
        return Config.fromfile(str(path))
    except OSError:
        raise
    # A config is a program: it can fail in every way.
    except Exception as error:
        reason = f'{type(error).__name__}: {first_line(error)}'
        raise ValueError(f'{path} is not a config: {reason}') from error


def complete_config(
    cfg: Config, dataset_meta: Mapping[str, Any] | None = None
) -> None:
    """Fills in, in place, what :func:`load_config` describes."""
    separate_metrics(cfg)
    _choose_speed(cfg)
    check_trunk_rate(cfg.get('optim_wrapper') or {})
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name) or {}
        if loader.get('num_workers', 0) == 0 and 'num_workers' in loader:
            # PyTorch refuses what only workers could keep.
            loader['persistent_workers'] = False
            loader.pop('prefetch_factor', None)
        if loader.get('dataset') is not None:
            loader['dataset'] = allow_other_counts(loader['dataset'])
    training = innermost_datasets(cfg.get('train_dataloader') or {})
    for dataset in dataset_configs(cfg):
        if dataset.get('type') in FILE_DATASETS:
            # Its own counts do not describe the training set.
            if not any(dataset is one for one in training):
                dataset.setdefault('test_mode', True)
            for key in DATA_KEYS:
                if cfg.get(key) is not None:
                    dataset.setdefault(key, cfg[key])
    for name in ('val_dataloader', 'test_dataloader'):
        for dataset in innermost_datasets(cfg.get(name) or {}):
            if dataset.get('ann_file', '') is None:
                path = Path(dataset.get('data_root') or '', VALIDATION)
                validates = name == 'val_dataloader' and path.is_file()
                dataset['ann_file'] = VALIDATION if validates else TEST
    generic = [
        dataset
        for dataset in dataset_configs(cfg)
        if dataset.get('type') == GENERIC_DATASET
    ]
    known = {COUNTS_KEY, 'classes'}
    uncounted = [
        dataset
        for dataset in generic
        if dataset.get('test_mode') and known - {*dataset.get('metainfo', ())}
    ]
    unnumbered = [
        part
        for part in config_parts(cfg.get('model'))
        if part.get('num_classes', 0) is None
    ]
    # A config that is complete needs no second look at the annotations.
    if not generic or not uncounted + unnumbered:
        return
    if dataset_meta is None or COUNTS_KEY not in dataset_meta:
        dataset_meta = training_metainfo(training_dataset(cfg, []))
    classes = list(dataset_meta['classes'])
    for part in unnumbered:
        part['num_classes'] = len(classes)
    statistics = ClassStatistics.from_metainfo(dataset_meta)
    learned = {**statistics.to_metainfo(), 'classes': classes}
    for dataset in uncounted:
        own = dict(dataset.get('metainfo', {}))
        dataset.metainfo = LearnedMetainfo(own, learned)


def _choose_speed(cfg: Config) -> None:
    """Applies ``image_cache`` and ``augment_on`` in place."""
    if cfg.get('image_cache') is not None:
        for name in ('train_dataloader', 'val_dataloader'):
            for dataset in innermost_datasets(cfg.get(name) or {}):
                if dataset.get('type') in FILE_DATASETS:
                    dataset.setdefault('image_cache', cfg.image_cache)
    place = cfg.get('augment_on', PLACES[0])
    if place not in PLACES:
        raise ValueError(
            f'augment_on must be {" or ".join(map(repr, PLACES))}, got '
            f'{place!r}'
        )
    loader = cfg.get('train_dataloader')
    if place != 'device' or loader is None:
        return
    pipelines = [d.get('pipeline') or [] for d in innermost_datasets(loader)]
    moved = [s for p in pipelines for s in p if s.get('type') in ON_DEVICE]
    for steps in pipelines:
        kinds = [step.get('type') for step in steps]
        own = [*filter(kinds.__contains__, ON_DEVICE), 'PackImage']
        count = sum(kind in ON_DEVICE for kind in kinds)
        # Others would come after what they came before, or not at all.
        if not moved or (count and kinds[-1 - count :] != own):
            raise ValueError(
                f"augment_on='device' moves {' and '.join(ON_DEVICE)} to the "
                'end: a training pipeline must end with one or both, in this '
                'order and each once, and PackImage; this one is '
                f'{", ".join(map(str, kinds))}'
            )
    for step in moved:
        step['on_device'] = True
    # MMPretrain's own would leave out what was drawn.
    own = cfg.model.get('data_preprocessor')
    preprocessor = (
        cfg.setdefault('data_preprocessor', {}) if own is None else own
    )
    if preprocessor.get('type') in (None, 'ClsDataPreprocessor'):
        preprocessor['type'] = 'TwoStreamDataPreprocessor'


class LearnedMetainfo(ChainMap):
    """``metainfo`` of which only the config's own entries are printed.

    MMEngine prints the config at each start and checkpoint: the names and
    counts of 10,000 classes take it half a minute each time. A config that
    is read from that text learns them from the data again.
    """

    def __repr__(self) -> str:
        return repr(self.maps[0])


@register_handler('json')
class _ConfigJson(JsonHandler):
    """Lets MMEngine dump a complete config as JSON: as it is printed."""

    def dump_to_fileobj(self, obj: Any, file: Any, **options: Any) -> None:
        super().dump_to_fileobj(obj, file, **{'default': _plain, **options})

    def dump_to_str(self, obj: Any, **options: Any) -> str:
        return super().dump_to_str(obj, **{'default': _plain, **options})


def _plain(value: Any) -> Any:
    learned = isinstance(value, LearnedMetainfo)
    return dict(value.maps[0]) if learned else set_default(value)


Dumper.add_representer(
    LearnedMetainfo, lambda dumper, value: dumper.represent_dict(_plain(value))
)


@RUNNERS.register_module()
class RunnerFromData:
    """Builds a stock Runner from a config that the data complete.

    ``runner_type='RunnerFromData'`` in a config lets MMPretrain's tools, which
    know nothing of :func:`load_config`, fill in what that does.
    """

    @staticmethod
    def from_cfg(cfg: Config) -> Runner:
        """Builds MMEngine's Runner; raises what :func:`load_config` does.

        Here, where launcher and batch are known, a learning rate of None is
        filled in, too: see :func:`build_runner`.
        """
        complete_config(cfg)
        return build_runner(cfg, Runner.from_cfg)


def scope_of(cfg: Config) -> str:
    """Returns the registry scope of a config's names, MMPretrain's if none."""
    return cfg.get('default_scope') or 'mmpretrain'


def dataset_configs(cfg: Config) -> Iterator[Any]:
    """Yields the config of every dataset, without what wraps it."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name) or {}
        if isinstance(loader.get('dataset'), Mapping):
            yield from innermost_datasets(loader)


def training_dataset(cfg: Config, pipeline: Any) -> Any:
    """Builds what a complete config trains on, with another pipeline."""
    config = deepcopy(cfg.train_dataloader.dataset)
    for dataset in innermost_datasets(config):
        dataset.update(pipeline=pipeline, lazy_init=False)
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):  # Of wrappers.
        return DATASETS.build(config)


def fit_to_data(cfg: Config) -> None:
    """Fits batch, epoch and warm-up to a small training set, in place.

    Where an epoch does not fill a batch, both are set so that an epoch has
    four steps, which is said. A warm-up shorter than a step takes one.
    """
    loader: Any = cfg.get('train_dataloader') or {}
    if not isinstance(loader.get('sampler'), Mapping):
        return
    dataset = training_dataset(cfg, [])
    sampler = DATA_SAMPLERS.build(
        deepcopy(loader.sampler), default_args=dict(dataset=dataset)
    )
    world = count_processes(cfg.get('launcher') or 'none')
    draws = getattr(sampler, 'epoch_length', len(dataset)) // world
    batch = loader.get('batch_size')
    if isinstance(batch, int) and loader.get('drop_last') and draws < batch:
        # Of one stream twice as many: as many images as of two.
        each = 2 if len(loader.sampler.get('streams') or ()) == 1 else 1
        few = each * max(min(batch // each, len(dataset) // (4 * world)), 2)
        loader.batch_size = few
        words = f'batches of {few}'
        if 'epoch_length' in loader.sampler:
            draws = 4 * few
            loader.sampler.epoch_length = draws * world
            words += f' and epochs of {draws * world} draws'
        if is_main_process():
            print(
                f'Data:   an epoch would be shorter than a batch of {batch}: '
                f'takes {words} for the {len(dataset)} images'
            )
        batch = few
    steps = max(draws // (batch or 1), 1)
    schedulers: Any = cfg.get('param_scheduler') or []
    if isinstance(schedulers, Mapping):
        schedulers = [schedulers]
    for scheduler in schedulers:
        end, begin = scheduler.get('end', 1), scheduler.get('begin', 0)
        if scheduler.get('convert_to_iter_based') and end < 1:
            # A little more, since the Runner cuts it to whole steps.
            scheduler.end = max(end, begin + 1 / steps + 1e-6)


def config_parts(node: Any) -> Iterator[Any]:
    """Yields a config and every mapping within it, through lists too."""
    if isinstance(node, Mapping):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from config_parts(value)
