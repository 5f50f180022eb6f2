# VOC-LT: 1142 images to train, 4952 to test, 20 classes.
_base_ = './multi_label_224.py'

train_dataloader = dict(dataset=dict(dataset=dict(type='VOCLTDataset')))
val_dataloader = dict(dataset=dict(type='VOCLTDataset'))
test_dataloader = val_dataloader
