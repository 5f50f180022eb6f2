# LTML on VOC-LT with a ConvNeXt (tiny); else as ltml_voc.
_base_ = [
    './_base_/datasets/voc_lt_two_streams.py',
    './_base_/schedules/voc_lt_8e.py',
    './_base_/default_runtime.py',
]

model = dict(
    type='CollaborativeTwoBranchClassifier',
    backbone=dict(
        type='ConvNeXt',
        arch='tiny',
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/'
            'convnext/convnext-tiny_32xb128_in1k_20221207-998cf3e9.pth',
            prefix='backbone',
        ),
    ),
    num_classes=20,
)
tta_model = dict(type='CollaborativeTTA')
