"""No override is ignored: it changes the run, or is refused by name."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmpretrain.registry import MODELS

from ltml_cli import parse
from ltml_cli.options import PATH_OPTIONS, find_config, parse_cfg_options
from ltml_mm.apis.config import read_config
from ltml_mm.apis.overrides import apply_overrides
from ltml_mm.apis.weights import fetch_weights


def overridden(config, *options):
    cfg = read_config(find_config(config))
    apply_overrides(cfg, parse_cfg_options(options))
    return cfg


def flagged(*words):
    """The config of a command line of the training."""
    args = parse('train', words)
    cfg = read_config(args.config)
    apply_overrides(cfg, args.cfg_options or {})
    return cfg


@pytest.mark.parametrize(
    ('option', 'near'),
    [
        ('lr=0.1', ['optim_wrapper.optimizer.lr', '--lr']),
        ('batch_size=4', ['train_dataloader.batch_size', '--batch-size']),
        ('seed=3', ['randomness.seed', '--seed']),
        ('max_epochs=1', ['train_cfg.max_epochs', '--epochs']),
        ('num_classes=3', ['model.num_classes']),
        ('optim_wrapper.lr=0.1', ['optim_wrapper.optimizer.lr']),
        ('model.backbone.dept=18', ['model.backbone.depth']),
        ('model.fork.fus=probs', ['model.fork.fuse']),
        ('model={"num_clases":3}', ['model.num_classes']),
        ('env_cfg.cudnn_bench=True', ['env_cfg.cudnn_benchmark']),
        ('auto_scale_lr.enabled=True', ['auto_scale_lr.enable']),
        ('val_evaluator.hed=50', ['val_evaluator.head']),
        ('trian_cfg.max_epochs=1', ['train_cfg.max_epochs']),
        ('vis_backends=[]', ['visualizer.vis_backends']),
        (
            'train_pipeline.1.min_ratio=0.5',
            ['train_dataloader.dataset.dataset.pipeline.1.min_ratio'],
        ),
        ('launcher=pytorch', ['--launcher']),
        ('size=64', ['--size']),
        ('_base_=other.py', []),
    ],
)
def test_what_nothing_reads_is_refused(option, near):
    key = option.partition('=')[0]
    with pytest.raises(ValueError, match=f'--cfg-options {key}') as error:
        overridden('ltml_voc', option)
    assert all(name in str(error.value) for name in near)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'option',
    [
        "custom_hooks=[dict(type='EMAHook', momentum=0.001)]",
        "default_hooks.mine=dict(type='EMAHook')",
        *('model.fuse=probs', 'optim_wrapper.accumulative_counts=2'),
        *('model.fork.bn_streams=separate', 'randomness.diff_rank_seed=True'),
        *('model.backbone.frozen_stages=1', 'find_unused_parameters=True'),
        'optim_wrapper.paramwise_cfg.norm_decay_mult=0.',
        'optim_wrapper.paramwise_cfg.trunk_lr_mult=0.1',
        'train_dataloader.sampler.streams.uniform.num_samples=8',
        *('train_cfg.dynamic_intervals=[(1,2)]', 'test_evaluator.tail=10'),
        *('log_processor.window_size=5', 'train_dataloader.prefetch_factor=4'),
    ],
)
def test_new_entries_that_something_reads_are_taken(option):
    [(key, value)] = parse_cfg_options([option]).items()
    node = overridden('ltml_voc', option)
    for part in key.split('.'):
        node = node[part]
    assert node == value


def test_an_entry_for_data_that_nothing_takes():
    with pytest.raises(ValueError, match='data are LongTailDemoDataset'):
        overridden('ltml_demo', 'data_root=anything')


def test_own_modules_may_read_own_entries(tmp_path, monkeypatch):
    (tmp_path / 'own_module.py').touch()
    monkeypatch.syspath_prepend(tmp_path)
    text = "custom_imports = dict(imports=['own_module'])\nmine = 1\n"
    cfg = Config.fromstring(text, '.py')
    apply_overrides(cfg, {'mine': 2})
    assert cfg.mine == 2
    with pytest.raises(ValueError, match="nothing reads 'other'"):
        apply_overrides(cfg, {'other': 2})


@pytest.mark.parametrize('flag', ['--epochs=3', None])
def test_fewer_epochs_scale_drops_and_warm_up(flag):
    words = [flag] if flag else ['--cfg-options', 'train_cfg.max_epochs=3']
    for name, end in (('ltml_custom', 1), ('ltml_voc', 1.24)):
        cfg = flagged(name, *words)
        warm_up, drops = cfg.param_scheduler
        assert warm_up.end == pytest.approx(end * 3 / 8)
        assert drops.milestones == [1, 2]


@pytest.mark.parametrize(
    ('epochs', 'milestones'), [(1, []), (2, [1]), (4, [2, 3]), (16, [10, 14])]
)
def test_drops_keep_an_epoch_of_their_own(epochs, milestones):
    cfg = flagged('ltml_custom', f'--epochs={epochs}')
    assert cfg.param_scheduler[1].milestones == milestones


def test_a_cosine_ends_with_the_run():
    cfg = flagged('ltml_demo', '--epochs=2')
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, cosine.T_max, cosine.end) == (20, 2, 2)


def test_a_schedule_of_ones_own_stays():
    options = ('train_cfg.max_epochs=3', 'param_scheduler.1.milestones=[2]')
    cfg = overridden('ltml_voc', *options)
    assert cfg.param_scheduler[1].milestones == [2]
    assert cfg.param_scheduler[0].end == 1.24


def test_a_schedule_that_is_not_known_is_named():
    cfg = read_config(find_config('ltml_voc'))
    cfg.param_scheduler[1] = dict(type='ExponentialLR', gamma=0.9)
    with pytest.raises(ValueError, match='ExponentialLR, in param_scheduler'):
        apply_overrides(cfg, {'train_cfg.max_epochs': 3})


def test_flags_are_overrides(tmp_path):
    cfg = flagged(
        *('ltml_custom', '--data', str(tmp_path), '--lr', '0.5', '--seed=3'),
        *('--batch-size=4', '--size=96'),
    )
    assert cfg.data_root == str(tmp_path)
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    assert cfg.randomness.seed == 3
    assert cfg.train_dataloader.batch_size == 4
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.pipeline[1].scale == (96, 96)
    assert cfg.train_dataloader.dataset.dataset.pipeline[2].scale == (96, 96)


def test_the_size_reaches_a_backbone_that_needs_it():
    assert (
        flagged('ltml_voc_swin_tiny', '--size=96').model.backbone['img_size']
        == 96
    )
    with pytest.raises(ValueError, match='pipeline of train_dataloader'):
        flagged('ltml_demo', '--size=32')


def test_one_entry_is_not_set_twice(capsys):
    words = ('ltml_voc', '--seed=1', '--cfg-options', 'randomness.seed=2')
    with pytest.raises(SystemExit):
        flagged(*words)
    assert 'set the same' in capsys.readouterr().err


SMALL = dict(type='ResNet', depth=18, stem_channels=4, base_channels=4)


def initialized(path, backbone=SMALL):
    """A backbone that starts from a file."""
    cfg = Config(dict(model=dict(type='X', backbone=dict(backbone))))
    apply_overrides(cfg, {'--weights': str(path)})
    built = MODELS.build(cfg.model.backbone)
    built.init_weights()
    return built.state_dict(), cfg.model.backbone


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.backbone.', 'm.'])
@pytest.mark.parametrize('container', [None, 'state_dict', 'model'])
def test_weights_are_found_in_a_file(
    prefix, container, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    weights = MODELS.build(SMALL).state_dict()
    content = {prefix + key: value for key, value in weights.items()}
    content['head.fc.weight'] = torch.zeros(3, 3)
    path = tmp_path / 'w.pth'
    whole = {container: content, 'message_hub': HistoryBuffer([1.0], [1])}
    torch.save(whole if container else content, path)
    torch.serialization.clear_safe_globals()  # As MMEngine's loader does.
    found, _ = initialized(path)
    for key, value in weights.items():
        torch.testing.assert_close(found[key], value)
    assert "style='pytorch'" in capsys.readouterr().out


def test_weights_of_safetensors_and_of_keras(tmp_path, monkeypatch):
    safetensors = pytest.importorskip('safetensors.torch')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    weights = MODELS.build(SMALL).state_dict()
    path = tmp_path / 'resnet_keras.safetensors'
    safetensors.save_file(weights, path)
    found, backbone = initialized(path, {**SMALL, 'style': 'pytorch'})
    torch.testing.assert_close(found['conv1.weight'], weights['conv1.weight'])
    assert backbone.style == 'caffe'
    # Position embeddings of another size are resized, not left out.
    vit = dict(type='VisionTransformer', img_size=64, patch_size=16)
    vit['arch'] = dict(
        embed_dims=8, num_layers=1, num_heads=1, feedforward_channels=8
    )
    weights = MODELS.build(vit).state_dict()
    weights['pos_embed'] = torch.full_like(weights['pos_embed'], 5.0)
    path = tmp_path / 'vit.safetensors'
    safetensors.save_file(weights, path)
    found, _ = initialized(path, {**vit, 'img_size': 32})
    assert found['pos_embed'].shape == (1, 5, 8)
    assert (found['pos_embed'] == 5).all()


def test_tables_of_another_size_are_no_missing_weights(tmp_path):
    rope = dict(type='ViTEVA02', patch_size=16, arch=dict(
        embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=8
    ))  # fmt: skip
    weights = MODELS.build({**rope, 'img_size': 64}).state_dict()
    torch.save(weights, tmp_path / 'w.pth')
    found, _ = initialized(tmp_path / 'w.pth', {**rope, 'img_size': 32})
    key = 'layers.1.attn.proj.weight'
    assert torch.equal(found[key], weights[key])


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / 'w.pth'
    torch.save({'blocks.0.weight': torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r'holds 0 of the .*conv1\.weight'):
        initialized(path)
    torch.save({'a': object()}, path)
    with pytest.raises(ValueError, match='is refused: it holds pickled'):
        initialized(path)


def test_a_download_is_told_before_the_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))

    def fail(*args, **kwargs):
        raise OSError('no network')

    monkeypatch.setattr('torch.hub.load_state_dict_from_url', fail)
    monkeypatch.setattr('torch.utils.model_zoo.load_url', fail)
    monkeypatch.setattr(
        'mmengine.runner.checkpoint.CheckpointLoader.load_checkpoint', fail
    )
    cfg = read_config(find_config('ltml_custom'))
    with pytest.raises(ValueError, match=r'no network.*--weights FILE'):
        fetch_weights(cfg)
    shown = capsys.readouterr().out
    assert shown.startswith('Weights: the config starts from torchvision://')
    assert 'download.pytorch.org' in shown
    cfg.model.backbone.init_cfg = None
    fetch_weights(cfg)
    assert 'none are named for the backbone' in capsys.readouterr().out
    cfg.optim_wrapper.paramwise_cfg = None
    fetch_weights(cfg)
    assert capsys.readouterr().out == ''


def test_a_plateau_schedule_fits_any_number_of_epochs():
    plateau = dict(type='ReduceOnPlateauLR', monitor='multi-label/mAP')
    config = Config(
        dict(train_cfg=dict(max_epochs=2), param_scheduler=plateau)
    )
    apply_overrides(config, {'train_cfg.max_epochs': 4})
    assert config.train_cfg.max_epochs == 4
    assert config.param_scheduler == plateau


@settings(deadline=None)
@example('data_root', 'x' * 5000)
@given(st.sampled_from(PATH_OPTIONS), st.text().filter('None'.__ne__))
@pytest.mark.parametrize('prefix', ['', 'train_dataloader.dataset.'])
def test_a_path_is_the_text_that_was_given(prefix, name, text):
    key = prefix + name
    assert parse_cfg_options([f'{key}={text}']) == {key: text}


@pytest.mark.parametrize('text', ['2024', '1e5', 'true', 'cats,dogs', '(a'])
def test_a_folder_may_look_like_a_value(text):
    for key in ('data_root', 'experiment_name', 'a.data_prefix.img_path'):
        assert parse_cfg_options([f'{key}={text}']) == {key: text}


def test_none_is_a_folder_where_one_has_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_cfg_options(['data_root=None']) == {'data_root': None}
    (tmp_path / 'None').mkdir()
    assert parse_cfg_options(['data_root=None']) == {'data_root': 'None'}


def test_other_values_are_read():
    options = ['a=1', 'b=1e-3', 'c=[1,(2,x)]', "d='a b'", 'e=true', 'a=2']
    assert parse_cfg_options([*options, 'load_from=None']) == dict(
        a=2, b=0.001, c=[1, (2, 'x')], d='a b', e=True, load_from=None
    )
