"""A small config for every row of the table, and the names it gives."""

# The smallest nets that the constructors allow; depth 50 where the family
# has none with fewer blocks.
SMALL = dict(stem_channels=8, base_channels=8)
VIT = dict(
    img_size=32,
    patch_size=8,
    arch=dict(
        embed_dims=16, num_layers=12, num_heads=2, feedforward_channels=32
    ),
)
VIT_BLOCKS = ['layers.10', 'layers.11']
SWIN = dict(embed_dims=16, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2])
REGNET = dict(w0=24, wa=36, wm=2.0, group_w=8, depth=5, bot_mul=1.0)
HRNET = {
    f'stage{i + 1}': dict(
        num_modules=1,
        num_branches=i + 1,
        block='BASIC' if i else 'BOTTLENECK',
        num_blocks=(1,) * (i + 1),
        num_channels=tuple(4 * 2**j for j in range(i + 1)),
    )
    for i in range(4)
}
BLOCKS = dict(VIT, arch=dict(VIT['arch'], num_layers=3))
CONVNEXT = dict(
    type='ConvNeXt', arch=dict(depths=[1, 1, 2, 1], channels=[8, 8, 16, 16])
)
TWINS = dict(
    embed_dims=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1],
    patch_sizes=[4, 2, 2, 2], strides=[4, 2, 2, 2], mlp_ratios=[2, 2, 2, 2],
    sr_ratios=[8, 4, 2, 1],
)  # fmt: skip
SVT = dict(window_sizes=[2, 2, 2, 2], **TWINS)
TIMM_SWIN = dict(
    type='TIMMBackbone', img_size=64, window_size=2, embed_dim=8,
    depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), drop_path_rate=0.0,
)  # fmt: skip
TIMM_BLOCKS = dict(
    type='TIMMBackbone', img_size=28, embed_dim=24, depth=3, num_heads=2
)
TIMM_VIT = dict(
    TIMM_BLOCKS, model_name='vit_tiny_patch16_224', img_size=32, patch_size=8
)


def net(type, **options):
    return dict(type=type, **options)


def timm(model_name, **options):
    return net('TIMMBackbone', model_name=model_name, **options)


FOUR = (1, 1, 1, 1)
TIMM_RESNET = timm('resnet18', layers=FOUR, channels=(8, 16, 24, 32))
TIMM_CONVNEXT = timm(
    'convnext_atto', depths=FOUR, dims=(8, 8, 16, 16), drop_path_rate=0.0
)


def stages(count, *names, prefix='timm_model.'):
    return [f'{prefix}{name}' for name in (f'stages.{count}', *names)]


ROWS = {
    'resnet': (net('ResNet', depth=18, **SMALL), ['layer4']),
    'resnet-three-stages': (net('ResNet', depth=18, num_stages=3,
        out_indices=(2,), strides=(1, 2, 2), dilations=(1, 1, 1), **SMALL),
        ['layer3']),
    'resnet-with-cp': (net('ResNet', depth=18, with_cp=True, **SMALL),
        ['layer4']),
    'resnet-all-outputs': (net('ResNet', depth=18, out_indices=(0, 1, 2, 3),
        **SMALL), ['layer4']),
    'resnet-cifar': (net('ResNet_CIFAR', depth=18, **SMALL), ['layer4']),
    'resnetv1c': (net('ResNetV1c', depth=18, **SMALL), ['layer4']),
    'resnetv1d': (net('ResNetV1d', depth=18, **SMALL), ['layer4']),
    'resnext': (net('ResNeXt', depth=50, groups=4, width_per_group=4, **SMALL),
        ['layer4']),
    'seresnet': (net('SEResNet', depth=50, **SMALL), ['layer4']),
    'seresnext': (net('SEResNeXt', depth=50, groups=4, width_per_group=4,
        **SMALL), ['layer4']),
    'resnest': (net('ResNeSt', depth=50, **SMALL), ['layer4']),
    'res2net': (net('Res2Net', depth=50, base_width=8, **SMALL), ['layer4']),
    'regnet': (net('RegNet', arch=REGNET), ['layer4']),
    'vgg': (net('VGG', depth=11), ['features.10', 'features.11']),
    'vgg-bn': (net('VGG', depth=11, norm_cfg=net('BN')), ['features.10',
        'features.11']),
    'densenet': (net('DenseNet', arch=dict(growth_rate=8, depths=[1, 1, 2, 2],
        init_channels=8)), ['stages.3', 'transitions.3']),
    'mobilenetv2': (net('MobileNetV2', widen_factor=0.25), ['layer6', 'layer7',
        'conv2']),
    'mobilenetv3-small': (net('MobileNetV3', arch='small'), ['layer9',
        'layer10', 'layer11', 'layer12']),
    'mobilenetv3-large': (net('MobileNetV3', arch='large'), ['layer13',
        'layer14', 'layer15', 'layer16']),
    'shufflenetv2': (net('ShuffleNetV2', widen_factor=0.5), ['layers.2',
        'layers.3']),
    'efficientnet': (net('EfficientNet', arch='b0'), ['layers.5', 'layers.6']),
    'convnext': (CONVNEXT, ['downsample_layers.3', 'stages.3', 'norm3']),
    'convnext-maps': (dict(CONVNEXT, gap_before_final_norm=False,
        out_indices=[2, 3]), ['downsample_layers.3', 'stages.3', 'norm3']),
    'swin': (net('SwinTransformer', arch=SWIN, img_size=64, window_size=2,
        drop_path_rate=0.0), ['stages.3', 'norm3']),
    'swinv2': (net('SwinTransformerV2', arch=dict(extra_norm_every_n_blocks=0,
        **SWIN), img_size=64, window_size=2, drop_path_rate=0.0), ['stages.3',
        'norm3']),
    'vit': (net('VisionTransformer', **VIT), [*VIT_BLOCKS, 'ln1']),
    'vit-avg': (net('VisionTransformer', out_type='avg_featmap', **VIT),
        [*VIT_BLOCKS, 'ln1', 'ln2']),
    'vit-avg-clip': (net('VisionTransformer', out_type='avg_featmap',
        pre_norm=True, final_norm=False, with_cls_token=False, **VIT),
        [*VIT_BLOCKS, 'ln2']),
    'deit': (net('DistilledVisionTransformer', **VIT), [*VIT_BLOCKS, 'ln1']),
    'deit-avg': (net('DistilledVisionTransformer', out_type='avg_featmap',
        **VIT), [*VIT_BLOCKS, 'ln1', 'ln2']),
    'poolformer': (net('PoolFormer', arch=dict(layers=[1, 1, 1, 1],
        embed_dims=[8, 12, 16, 20])), ['network.5', 'network.6', 'norm6']),
    'repvgg': (net('RepVGG', arch='A0', base_channels=8), ['stage_4']),
    'repvgg-ppf': (net('RepVGG', arch='yolox-pai-small', base_channels=8,
        add_ppf=True), ['stage_4', 'ppf']),
    'hrnet': (net('HRNet', extra=HRNET), ['stage4']),
    'timm-resnet': (TIMM_RESNET, ['timm_model.layer4']),
    'timm-resnet-features': (dict(features_only=True, **TIMM_RESNET),
        ['timm_model.layer4']),
    'timm-convnext': (TIMM_CONVNEXT, ['timm_model.stages.3',
        'timm_model.head.norm']),
    'timm-convnext-features': (dict(features_only=True, **TIMM_CONVNEXT),
        ['timm_model.stages_3']),
    'timm-vit': (TIMM_VIT, ['timm_model.blocks.2', 'timm_model.norm']),
    'timm-vit-fc-norm': (dict(global_pool='avg', class_token=False,
        **TIMM_VIT), ['timm_model.blocks.2', 'timm_model.fc_norm']),
    'densenet-121': (net('DenseNet', arch='121'), ['stages.3',
        'transitions.3']),
    'beit': (net('BEiTViT', **BLOCKS), ['layers.2', 'ln2']),
    'beit-shared': (net('BEiTViT', use_abs_pos_emb=False,
        use_rel_pos_bias=False, use_shared_rel_pos_bias=True, **BLOCKS),
        ['layers.2', 'ln2']),
    'eva02': (net('ViTEVA02', **BLOCKS), ['layers.2', 'ln1']),
    'deit3': (net('DeiT3', **BLOCKS), ['layers.2', 'ln1']),
    'clip-vit': (net('VisionTransformer', pre_norm=True, final_norm=False,
        **BLOCKS), ['layers.2']),
    'xcit': (net('XCiT', patch_size=16, embed_dims=16, depth=6, num_heads=2),
        ['xca_layers.5', 'ca_layers.0', 'ca_layers.1', 'norm']),
    'levit': (net('LeViT', arch='128s'), ['stages.2']),
    'mobileone': (net('MobileOne', arch=dict(num_blocks=[1] * 4,
        width_factor=[0.25] * 4, num_conv_branches=[1] * 4, num_se_blocks=[0] *
        4)), ['stage4']),
    'edgenext': (net('EdgeNeXt', arch=dict(channels=[8, 16, 24, 32], depths=[1]
        * 4, num_heads=[2] * 4)), ['downsample_layers.3', 'stages.3',
        'norm3']),
    'hornet': (net('HorNet', arch=dict(base_dim=16, depths=[1] * 4, orders=[2]
        * 4, dw_cfg=[net('DW', kernel_size=3)] * 4)), ['downsample_layers.3',
        'stages.3', 'norm3']),
    'van': (net('VAN', arch=dict(embed_dims=[8, 8, 16, 16], depths=[1] * 4,
        ffn_ratios=[2] * 4)), ['patch_embed4', 'blocks4.0', 'norm4']),
    'mvit': (net('MViT', img_size=64, arch=dict(embed_dims=16, num_layers=4,
        num_heads=1, downscale_indices=[1, 2, 3])), ['blocks.3', 'norm3']),
    'hivit': (net('HiViT', arch='tiny'), ['blocks.14', 'blocks.15']),
    'davit': (net('DaViT', window_size=2, drop_path_rate=0.0,
        arch=dict(embed_dims=8, depths=[1] * 4, num_heads=[1, 1, 2, 2])),
        ['stages.3', 'norm3']),
    'twins-pcpvt': (net('PCPVT', arch=TWINS, drop_path_rate=0.0),
        ['patch_embeds.3', 'stages.3.0', 'position_encodings.3']),
    'twins-svt': (net('SVT', arch=SVT, drop_path_rate=0.0), ['patch_embeds.3',
        'stages.3.0', 'position_encodings.3']),
    'tinyvit': (net('TinyViT', img_size=(64, 64), drop_path_rate=0.0,
        arch=dict(channels=[8, 16, 24, 32], num_heads=[1] * 4, depths=[1] * 4,
        window_sizes=[4, 4, 4, 2])), ['stages.3', 'norm3']),
    'mobilevit': (net('MobileViT', arch='xx_small'), ['layers.4',
        'conv_1x1_exp']),
    'efficientformer': (net('EfficientFormer', arch=dict(layers=[1, 1, 1, 2],
        embed_dims=[8, 16, 24, 32], downsamples=[False, True, True, True],
        vit_num=1)), ['network.3', 'norm3']),
    'mlp-mixer': (net('MlpMixer', arch='s', img_size=32), ['layers.7', 'ln1']),
    'convmixer': (net('ConvMixer', arch=dict(embed_dims=16, depth=12,
        patch_size=16, kernel_size=3)), ['stages.10', 'stages.11']),
    'tnt': (net('TNT', img_size=32, arch=dict(embed_dims_outer=16,
        embed_dims_inner=4, num_layers=6, num_heads_outer=2,
        num_heads_inner=2)), ['layers.5', 'norm']),
    'mixmim': (net('MixMIMTransformer', img_size=64, window_size=[2] * 4,
        arch=dict(embed_dims=16, depths=[1] * 4, num_heads=[1] * 4)),
        ['layers.3', 'norm']),
    'revvit': (net('RevVisionTransformer', no_custom_backward=True, **BLOCKS),
        ['layers.2', 'ln1']),
    'timm-efficientnet': (timm('test_efficientnet'), [f'timm_model.{n}' for n
        in ('blocks.4', 'conv_head', 'bn2')]),
    'timm-mobilenetv3': (timm('mobilenetv3_small_050'), [f'timm_model.{n}' for
        n in ('blocks.4', 'blocks.5', 'conv_head')]),
    'timm-mobilenetv4': (timm('mobilenetv4_conv_small_035'), [f'timm_model.{n}'
        for n in ('blocks.3', 'blocks.4', 'conv_head', 'norm_head')]),
    'timm-regnet': (timm('regnetx_002'), ['timm_model.s4']),
    'timm-swin': (dict(model_name='swin_tiny_patch4_window7_224', **TIMM_SWIN),
        ['timm_model.layers.3', 'timm_model.norm']),
    'timm-swinv2': (dict(model_name='swinv2_tiny_window8_256', **TIMM_SWIN),
        ['timm_model.layers.3', 'timm_model.norm']),
    'timm-eva02': (dict(model_name='eva02_tiny_patch14_224', **TIMM_BLOCKS),
        ['timm_model.blocks.2', 'timm_model.fc_norm']),
    'timm-beit': (dict(model_name='beit_base_patch16_224', patch_size=14,
        **TIMM_BLOCKS), ['timm_model.blocks.2', 'timm_model.fc_norm']),
    'timm-cait': (dict(model_name='cait_xxs24_224', patch_size=14,
        **TIMM_BLOCKS), ['timm_model.blocks_token_only.1', 'timm_model.norm']),
    'timm-maxvit': (timm('maxvit_tiny_tf_224', img_size=64, depths=(1, 1, 1,
        1), embed_dim=(32, 32, 32, 64), stem_width=(8, 16),
        drop_path_rate=0.0), stages(3, 'head')),
    'timm-nfnet': (timm('test_nfnet'), stages(3, 'final_conv')),
    'timm-ghostnet': (timm('ghostnet_050', drop_rate=0.0), [f'timm_model.{n}'
        for n in ('blocks.7', 'blocks.8', 'blocks.9', 'conv_head')]),
    'timm-davit': (timm('davit_tiny', depths=(1, 1, 1, 1), embed_dims=(8, 16,
        24, 32), num_heads=(1, 1, 1, 1)), stages(3, 'head')),
    'timm-mambaout': (timm('test_mambaout'), stages(3, 'head')),
    'timm-resnetv2': (timm('resnetv2_50', layers=(1, 1, 1, 1), channels=(16,
        16, 32, 32), stem_chs=8), stages(3, 'norm')),
    'timm-efficientformer': (timm('efficientformer_l1', depths=(1, 1, 1, 2),
        num_vit=1, embed_dims=(8, 16, 24, 32)), stages(3, 'norm')),
    'timm-vit-features': (dict(features_only=True, **TIMM_VIT),
        ['timm_model.model.blocks.2']),
}  # fmt: skip

#: Of one size alone, which their configs do not name.
FIXED = {'vgg': 32, 'vgg-bn': 32} | dict.fromkeys(
    ('levit', 'hivit', 'efficientformer', 'timm-efficientformer'), 224
)


def side(row):
    """The height and width of small images for a row."""
    size = FIXED.get(row, ROWS[row][0].get('img_size', 64))
    return size if isinstance(size, tuple) else (size, size)


def table():
    """The rows as the page of backbones shows them."""
    lines = [
        '| Row | `backbone` | `fork.at`, found by itself |',
        '|---|---|---|',
    ]
    for row, (config, names) in ROWS.items():
        kind = config['type']
        if kind == 'TIMMBackbone':
            kind = f'timm {config["model_name"]}'
            kind += ', features_only' * config.get('features_only', False)
        shown = ' '.join(f'`{name}`' for name in names)
        lines.append(f'| {row} | {kind} | {shown} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    print(table())
