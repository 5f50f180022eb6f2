# LTML on VOC-LT with a Swin Transformer (tiny); else as ltml_voc.
_base_ = [
    './_base_/datasets/voc_lt_two_streams.py',
    './_base_/schedules/voc_lt_8e.py',
    './_base_/default_runtime.py',
]

model = dict(
    type='CollaborativeTwoBranchClassifier',
    backbone=dict(
        type='SwinTransformer',
        arch='tiny',
        img_size=224,
        drop_path_rate=0.2,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/'
            'swin-transformer/swin_tiny_224_b16x64_300e_imagenet_'
            '20210616_090925-66df6be6.pth',
            prefix='backbone',
        ),
    ),
    num_classes=20,
)
tta_model = dict(type='CollaborativeTTA')
