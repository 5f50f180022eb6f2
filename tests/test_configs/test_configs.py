import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import RUNNERS, init_default_scope
from mmpretrain.registry import DATA_SAMPLERS, DATASETS, METRICS, MODELS
from mmpretrain.structures import DataSample
from two_branch_case import BACKBONE
from two_branch_case import build as build_network

from ltml_mm.apis.config import complete_config, load_config
from ltml_mm.datasets.published import COCO_CLASSES, VOC_CLASSES
from ltml_mm.experiments.rows import row_config
from ltml_mm.files import write_json
from ltml_mm.models.fork.branches import plain_name

ROOT = Path(__file__).parents[2] / 'configs'
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob('*.py')
    if '_base_' not in path.parts
)
# SET:ROW is a row as compare.py makes it.
CONFIGS += ['custom:db_focal', 'demo:erm']
CLASSES = {'voc': VOC_CLASSES, 'coco': COCO_CLASSES, 'custom': ('a', 'b', 'c')}


@pytest.fixture
def folder(tmp_path):
    """Annotation files for each kind of config; no image is read."""
    for name, classes in CLASSES.items():
        labels = [[k] for k in range(len(classes))] + [[0, 1], [0]]
        counts = np.bincount(np.concatenate(labels)).tolist()
        metainfo = {'classes': list(classes), 'class_counts': counts}
        for split in ('train', 'test'):
            data = [
                {'img_path': f'{i}.jpg', 'gt_label': label}
                for i, label in enumerate(labels)
            ]
            path = tmp_path / name / f'{split}.json'
            write_json(path, {'metainfo': metainfo, 'data_list': data})
    return tmp_path


def kind_of(name):
    return next((k for k in CLASSES if k in Path(name).stem), None)


def path_of(name, folder):
    kind, colon, row = name.partition(':')
    if not colon:
        return ROOT / name
    path = folder / f'{kind}_{row}.py'
    path.write_text(row_config(row, kind).pretty_text)
    return path


def read(name, folder):
    kind = kind_of(name)
    options = {}
    if kind == 'custom':
        options['data_root'] = str(folder / kind)
    elif kind in CLASSES:
        for loader in ('val_dataloader', 'test_dataloader'):
            options[f'{loader}.dataset.data_root'] = str(folder / kind)
        options['train_dataloader.dataset.dataset.data_root'] = str(
            folder / kind
        )
    cfg = load_config(path_of(name, folder), options)
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('building a config must not load weights')

    monkeypatch.setattr('mmengine.runner.load_checkpoint', refuse)


def build(name, folder, narrow=False, **options):
    """The Runner that MMPretrain's tools make of a config."""
    cfg = Config.fromfile(path_of(name, folder))
    loaders = {
        f'{loader}.{key}': value
        for loader in ('train_dataloader', 'test_dataloader')
        for key, value in (('num_workers', 0), ('persistent_workers', False))
    }
    changed = {
        'data_root': str(folder / str(kind_of(name))),
        'work_dir': str(folder),
        'experiment_name': f'{name} {options}',
        **loaders,
        **options,
    }
    if narrow:
        backbone = dict(type='ResNet', depth=18, base_channels=4)
        changed['model.backbone'] = dict(_delete_=True, **backbone)
        if 'head' in cfg.model:
            changed['model.head.in_channels'] = 32
    cfg.merge_from_dict(changed)
    return RUNNERS.build(cfg)


@pytest.mark.usefixtures('quick', 'quiet')
@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_builds_under_the_stock_tools(name, folder):
    # The rows of COCO-LT differ from VOC-LT's in the data alone.
    runner = build(name, folder, narrow='coco' in name)
    cfg, model = runner.cfg, runner.model
    train, test = (
        runner.build_dataloader(cfg[loader])
        for loader in ('train_dataloader', 'test_dataloader')
    )
    num_classes = len(train.dataset.metainfo['classes'])
    assert (
        test.dataset.metainfo['classes'] == (train.dataset.metainfo['classes'])
    )
    assert len(test.dataset.metainfo['class_counts']) == num_classes
    METRICS.build(cfg.test_evaluator)
    assert MODELS.get(cfg.tta_model.type) is not None

    draw = next(iter(train.sampler))
    streams = [key for key in draw if key != 'draw']
    assert len(streams) == (2 if 'Collaborative' in cfg.model.type else 1)
    # 64 images a step in every row.
    assert train.batch_size * len(streams) == 64
    assert cfg.auto_scale_lr.base_batch_size == train.batch_size
    side = cfg.model.backbone.get('img_size', 64)
    logits = model.eval()(torch.rand(1, 3, side, side), mode='tensor')
    assert logits.shape == (1, num_classes)


def steps_of(name, folder):
    cfg = read(name, folder)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    sampler = DATA_SAMPLERS.build(
        cfg.train_dataloader.sampler, default_args=dict(dataset=dataset)
    )
    return len(sampler) / cfg.train_dataloader.batch_size


@pytest.mark.parametrize('kind', ['voc', 'coco', 'demo', 'custom'])
def test_baselines_see_as_many_images_as_the_method(kind, folder):
    own = steps_of(f'ltml_{kind}.py', folder)
    for row in ('erm', 'rs'):
        assert steps_of(f'{kind}:{row}', folder) == own


@pytest.mark.parametrize('kind', ['voc', 'coco', 'demo', 'custom'])
def test_baseline_loss_is_bce_as_a_mean_over_classes(kind, folder):
    cfg = read(f'{kind}:erm', folder)
    head = MODELS.build(cfg.model.head)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, head.num_classes, generator=generator)
    samples = [DataSample().set_gt_label(k) for k in ([0], [1, 2])]
    target = np.zeros((2, head.num_classes))
    target[0, 0] = target[1, 1] = target[1, 2] = 1
    z = logits.double().numpy()
    expected = np.mean(np.log1p(np.exp(z)) - target * z)
    found = head._get_loss(logits, samples)['loss'].item()
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    'name', [n for n in CONFIGS if n.startswith('ltml_voc_')]
)
def test_backbone_variants_differ_in_the_model_alone(name):
    plain = Config.fromfile(ROOT / 'ltml_voc.py').to_dict()
    variant = Config.fromfile(ROOT / name).to_dict()
    plain.pop('model')
    variant.pop('model')
    assert json.dumps(variant, sort_keys=True) == json.dumps(
        plain, sort_keys=True
    )


def rates_of(model, cfg):
    groups = build_optim_wrapper(model, cfg.to_dict()).optimizer.param_groups
    rates = {p: group['lr'] for group in groups for p in group['params']}
    return {name: rates[p] for name, p in model.named_parameters()}


@pytest.mark.parametrize('name', ['ltml_custom', 'recipes/ltml_plus_custom'])
@pytest.mark.parametrize(
    'backbone', [BACKBONE, dict(type='MobileNetV2', widen_factor=0.25)]
)
def test_what_both_branches_share_learns_at_a_tenth(backbone, name):
    cfg = Config.fromfile(ROOT / f'{name}.py')
    cfg.optim_wrapper.optimizer.lr = 1.0
    cfg.optim_wrapper.paramwise_cfg.custom_keys = {'layer1.': dict(lr_mult=2)}
    model = build_network(backbone=backbone, head=cfg.model.get('head'))
    rates = rates_of(model, cfg.optim_wrapper)
    for weight in model.parameters():  # None is zero, as some norms start.
        torch.nn.init.uniform_(weight, 0.01, 0.1)
    reached = []
    for z in model.branch_logits(torch.rand(2, 3, 64, 64)).values():
        model.zero_grad(set_to_none=False)
        z.sum().backward(retain_graph=True)
        grads = [(name, p.grad) for name, p in model.named_parameters()]
        reached.append({n for n, g in grads if g is not None and g.any()})
    for name, rate in rates.items():
        shared = all(name in names for names in reached)
        own = 2.0 if 'layer1.' in name else 1.0
        assert rate == (0.1 if shared else 1.0) * own, name
    # A row of one branch is compared at the same rates.
    plain = MODELS.build(dict(type='ImageClassifier', backbone=backbone))
    plain = rates_of(plain, cfg.optim_wrapper)
    both = {plain_name(name): rate for name, rate in rates.items()}
    assert plain == {name: both[name] for name in plain}
    assert {*plain.values()} == {0.1, 0.2, 1.0}
    model.fork_at, model.backbone = None, torch.nn.Identity()
    with pytest.raises(ValueError, match='trunk_lr_mult=1 needs no stage'):
        rates_of(model, cfg.optim_wrapper)
    del model.backbone
    with pytest.raises(ValueError, match="'backbone'; trunk_lr_mult=1 needs"):
        rates_of(model, cfg.optim_wrapper)
    cfg.optim_wrapper.constructor = 'LearningRateDecayOptimWrapperConstructor'
    with pytest.raises(ValueError, match=r'does not read .*: set that to 1'):
        complete_config(cfg)


@pytest.mark.parametrize('name', CONFIGS)
def test_one_knob_shortens_every_config(name, folder):
    cfg = read(name, folder)
    cfg.merge_from_dict({'train_dataloader.sampler.epoch_length': 64})
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    sampler = DATA_SAMPLERS.build(
        cfg.train_dataloader.sampler, default_args=dict(dataset=dataset)
    )
    assert len(sampler) == 64


def first_steps(name, folder, batch):
    """Steps of an epoch, and of the warm-up in a Runner."""
    size = {'train_dataloader.batch_size': batch}
    runner = build(name, folder, narrow=True, **size)
    loop = runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    warm_up, _ = runner.build_param_scheduler(runner.param_schedulers)
    assert not warm_up.by_epoch
    return len(loop.dataloader), warm_up.end


@pytest.mark.usefixtures('quick', 'quiet')
@pytest.mark.parametrize(
    ('kind', 'head', 'epoch', 'warm_up'),
    [('voc', 775, 121, 150), ('coco', 1128, 705, 700)],
)
def test_the_warm_up_has_the_steps_of_the_protocol(
    kind, head, epoch, warm_up, folder
):
    path = folder / kind / 'train.json'
    content = json.loads(path.read_text())
    entries = content['data_list']
    more = head - sum(0 in entry['gt_label'] for entry in entries)
    entries += [
        {'img_path': f'more_{i}.jpg', 'gt_label': [0]} for i in range(more)
    ]
    content['metainfo']['class_counts'][0] = head
    write_json(path, content)
    for name, batch in ((f'ltml_{kind}.py', 32), (f'{kind}:erm', 64)):
        assert first_steps(name, folder, batch) == (epoch, warm_up)
        # As with eight processes.
        steps, shorter = first_steps(name, folder, 8 * batch)
        assert steps == epoch // 8
        assert shorter == pytest.approx(warm_up / 8, abs=1)
