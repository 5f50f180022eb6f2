# LTML with a ResNet-50. Who inherits sets num_classes.
model = dict(
    type='CollaborativeTwoBranchClassifier',
    backbone=dict(
        type='ResNet',
        depth=50,
        num_stages=4,
        out_indices=(3,),
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
    ),
)
tta_model = dict(type='CollaborativeTTA')
