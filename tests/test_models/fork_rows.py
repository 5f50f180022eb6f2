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
TIMM_VIT = dict(
    type='TIMMBackbone',
    model_name='vit_tiny_patch16_224',
    img_size=32,
    patch_size=8,
    embed_dim=24,
    depth=6,
    num_heads=2,
)
TIMM_RESNET = dict(
    type='TIMMBackbone',
    model_name='resnet18',
    layers=(1, 1, 1, 1),
    channels=(8, 16, 24, 32),
)
TIMM_CONVNEXT = dict(
    type='TIMMBackbone',
    model_name='convnext_atto',
    depths=(1, 1, 1, 1),
    dims=(8, 8, 16, 16),
    drop_path_rate=0.0,
)

ROWS = {
    'resnet': (dict(type='ResNet', depth=18, **SMALL), ['layer4']),
    'resnet-three-stages': (
        dict(
            type='ResNet', depth=18, num_stages=3, out_indices=(2,),
            strides=(1, 2, 2), dilations=(1, 1, 1), **SMALL,
        ),
        ['layer3'],
    ),
    'resnet-with-cp': (
        dict(type='ResNet', depth=18, with_cp=True, **SMALL), ['layer4'],
    ),
    'resnet-all-outputs': (
        dict(type='ResNet', depth=18, out_indices=(0, 1, 2, 3), **SMALL),
        ['layer4'],
    ),
    'resnet-cifar': (
        dict(type='ResNet_CIFAR', depth=18, **SMALL), ['layer4'],
    ),
    'resnetv1c': (dict(type='ResNetV1c', depth=18, **SMALL), ['layer4']),
    'resnetv1d': (dict(type='ResNetV1d', depth=18, **SMALL), ['layer4']),
    'resnext': (
        dict(type='ResNeXt', depth=50, groups=4, width_per_group=4, **SMALL),
        ['layer4'],
    ),
    'seresnet': (dict(type='SEResNet', depth=50, **SMALL), ['layer4']),
    'seresnext': (
        dict(type='SEResNeXt', depth=50, groups=4, width_per_group=4, **SMALL),
        ['layer4'],
    ),
    'resnest': (dict(type='ResNeSt', depth=50, **SMALL), ['layer4']),
    'res2net': (
        dict(type='Res2Net', depth=50, base_width=8, **SMALL), ['layer4'],
    ),
    'regnet': (dict(type='RegNet', arch=REGNET), ['layer4']),
    'vgg': (dict(type='VGG', depth=11), ['features.10', 'features.11']),
    'vgg-bn': (
        dict(type='VGG', depth=11, norm_cfg=dict(type='BN')),
        ['features.10', 'features.11'],
    ),
    'densenet': (
        dict(
            type='DenseNet',
            arch=dict(growth_rate=8, depths=[1, 1, 2, 2], init_channels=8),
        ),
        ['stages.3', 'transitions.3'],
    ),
    'mobilenetv2': (
        dict(type='MobileNetV2', widen_factor=0.25),
        ['layer6', 'layer7', 'conv2'],
    ),
    'mobilenetv3-small': (
        dict(type='MobileNetV3', arch='small'),
        ['layer9', 'layer10', 'layer11', 'layer12'],
    ),
    'mobilenetv3-large': (
        dict(type='MobileNetV3', arch='large'),
        ['layer13', 'layer14', 'layer15', 'layer16'],
    ),
    'shufflenetv2': (
        dict(type='ShuffleNetV2', widen_factor=0.5),
        ['layers.2', 'layers.3'],
    ),
    'efficientnet': (
        dict(type='EfficientNet', arch='b0'), ['layers.5', 'layers.6'],
    ),
    'convnext': (
        dict(
            type='ConvNeXt',
            arch=dict(depths=[1, 1, 2, 1], channels=[8, 8, 16, 16]),
        ),
        ['downsample_layers.3', 'stages.3', 'norm3'],
    ),
    'convnext-maps': (
        dict(
            type='ConvNeXt',
            arch=dict(depths=[1, 1, 2, 1], channels=[8, 8, 16, 16]),
            gap_before_final_norm=False,
            out_indices=[2, 3],
        ),
        ['downsample_layers.3', 'stages.3', 'norm3'],
    ),
    'swin': (
        dict(
            type='SwinTransformer', arch=SWIN, img_size=64, window_size=2,
            drop_path_rate=0.0,
        ),
        ['stages.3', 'norm3'],
    ),
    'swinv2': (
        dict(
            type='SwinTransformerV2',
            arch=dict(extra_norm_every_n_blocks=0, **SWIN),
            img_size=64, window_size=2, drop_path_rate=0.0,
        ),
        ['stages.3', 'norm3'],
    ),
    'vit': (dict(type='VisionTransformer', **VIT), [*VIT_BLOCKS, 'ln1']),
    'vit-avg': (
        dict(type='VisionTransformer', out_type='avg_featmap', **VIT),
        [*VIT_BLOCKS, 'ln1', 'ln2'],
    ),
    'vit-avg-clip': (
        dict(
            type='VisionTransformer', out_type='avg_featmap', pre_norm=True,
            final_norm=False, with_cls_token=False, **VIT,
        ),
        [*VIT_BLOCKS, 'ln2'],
    ),
    'deit': (
        dict(type='DistilledVisionTransformer', **VIT), [*VIT_BLOCKS, 'ln1'],
    ),
    'deit-avg': (
        dict(
            type='DistilledVisionTransformer', out_type='avg_featmap', **VIT
        ),
        [*VIT_BLOCKS, 'ln1', 'ln2'],
    ),
    'poolformer': (
        dict(
            type='PoolFormer',
            arch=dict(layers=[1, 1, 1, 1], embed_dims=[8, 12, 16, 20]),
        ),
        ['network.5', 'network.6', 'norm6'],
    ),
    'repvgg': (
        dict(type='RepVGG', arch='A0', base_channels=8), ['stage_4'],
    ),
    'repvgg-ppf': (
        dict(
            type='RepVGG', arch='yolox-pai-small', base_channels=8,
            add_ppf=True,
        ),
        ['stage_4', 'ppf'],
    ),
    'hrnet': (dict(type='HRNet', extra=HRNET), ['stage4']),
    'timm-resnet': (
        TIMM_RESNET,
        ['timm_model.layer4'],
    ),
    'timm-resnet-features': (
        dict(features_only=True, **TIMM_RESNET),
        ['timm_model.layer4'],
    ),
    'timm-convnext': (
        TIMM_CONVNEXT, ['timm_model.stages.3', 'timm_model.head.norm'],
    ),
    'timm-convnext-features': (
        dict(features_only=True, **TIMM_CONVNEXT), ['timm_model.stages_3'],
    ),
    'timm-vit': (
        TIMM_VIT, ['timm_model.blocks.5', 'timm_model.norm'],
    ),
    'timm-vit-fc-norm': (
        dict(global_pool='avg', class_token=False, **TIMM_VIT),
        ['timm_model.blocks.5', 'timm_model.fc_norm'],
    ),
}  # fmt: skip
