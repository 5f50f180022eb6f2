# COCO-LT: 1909 images to train, 5000 to test, 80 classes.
_base_ = './multi_label_224.py'

train_dataloader = dict(dataset=dict(dataset=dict(type='COCOLTDataset')))
val_dataloader = dict(dataset=dict(type='COCOLTDataset'))
test_dataloader = val_dataloader
