"""Command lines of training, testing, predicting and merging."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ltml_cli import options

#: What --amp may name, as in ``apis.train.PRECISIONS``.
PRECISIONS = ('fp16', 'bf16')
#: What --format of the export may name.
EXPORT_FORMATS = ('onnx', 'torch_export', 'torchscript')
#: The suffix of weights in the safetensors format.
SAFETENSORS = '.safetensors'
#: The least score of a predicted class where none is given.
DEFAULT_THRESHOLD = 0.5
#: Its exit status where at least one file was skipped.
SOME_SKIPPED = 3


def train_parser() -> options.Parser:
    """Builds the parser of ``train.py``."""
    parser = options.Parser(description='Train a model')
    options.add_config(parser)
    options.add_flags(parser, *options.FLAGS)
    options.add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CKPT',
        help='resume from a checkpoint, or from the latest of the work '
        'directory',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='fp16',
        choices=PRECISIONS,
        help='train in mixed precision, fp16 by default; bf16 works on a CPU, '
        'too',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the pairs of a step over '
        'auto_scale_lr.base_batch_size',
    )
    parser.add_argument(
        '--tensorboard', action='store_true', help='log for TensorBoard, too'
    )
    parser.add_argument(
        '--no-validate', action='store_true', help='do not evaluate'
    )
    add_safetensors(parser)
    return parser


def add_safetensors(parser: argparse.ArgumentParser) -> None:
    """Adds ``--safetensors``."""
    parser.add_argument(
        '--safetensors',
        action='store_true',
        help='write the weights as safetensors and a model card, too',
    )


def check_train(parser: options.Parser, args: argparse.Namespace) -> None:
    """Checks the files that a training reads."""
    args.config = options.find_config(args.config)
    options.settle_flags(parser, args)
    if args.resume is None and args.work_dir is not None:
        options.check_new_run(args.work_dir)
    if args.resume not in (None, 'auto') and '://' not in args.resume:
        options.check_checkpoint(args.resume)
        if args.resume.endswith(SAFETENSORS):
            raise ValueError(
                f'{args.resume} holds weights alone, no state of a training '
                'to resume: start from them with --cfg-options '
                f'load_from={args.resume}'
            )


def test_parser() -> options.Parser:
    """Builds the parser of ``test.py``."""
    parser = options.Parser(description='Evaluate a checkpoint')
    options.add_model(parser)
    options.add_flags(parser, '--data', '--size', '--batch-size')
    options.add_common_arguments(parser)
    parser.add_argument(
        '--tta',
        action='store_true',
        help='average the predictions of the image and of its mirror image',
    )
    parser.add_argument(
        '--out',
        type=options.output_file,
        metavar='X.json',
        help='write metrics and predictions to this JSON file',
    )
    parser.add_argument(
        '--show-dir',
        type=options.output_folder,
        help='draw the predictions on the images, into here',
    )
    add_thresholds(parser)
    return parser


def check_test(parser: options.Parser, args: argparse.Namespace) -> None:
    """Checks the files of a test, and options that exclude each other."""
    if args.out is not None and not args.out.endswith('.json'):
        parser.error(f'--out must end with .json, got {args.out}')
    if args.tta and args.show_dir:
        parser.error('--show-dir draws single views: leave out --tta')
    options.check_model(args)
    options.settle_flags(parser, args)


def predict_parser() -> options.Parser:
    """Builds the parser of ``predict.py``."""
    parser = options.Parser(
        description='Predict the classes of images',
        epilog=f'Files that cannot be read are skipped and reported; the '
        f'exit status is then {SOME_SKIPPED}.',
    )
    options.add_model(parser)
    parser.add_argument(
        'input', metavar='IMAGE|FOLDER', help='an image, or a folder of them'
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        '--threshold',
        type=float,
        help='predict the classes with at least this score (default: their '
        f'own thresholds, {DEFAULT_THRESHOLD} where there are none)',
    )
    add_thresholds(choice)
    choice.add_argument(
        '--topk',
        type=options.positive,
        help='predict this many, whatever their scores',
    )
    parser.add_argument(
        '--calibrated',
        action='store_true',
        help='show calibrated scores, by the calibration of the thresholds',
    )
    parser.add_argument(
        '--out',
        type=options.output_folder,
        metavar='DIR',
        help='write predictions.json and annotated pictures into here '
        '(default: only show the table)',
    )
    parser.add_argument(
        '--batch-size',
        type=options.positive,
        default=8,
        help='images a step (default: 8)',
    )
    options.add_device(parser)
    options.add_cfg_options(parser)
    return parser


def add_thresholds(parser: Any) -> None:
    """Adds ``--thresholds``, the file that ``thresholds.py`` writes."""
    parser.add_argument(
        '--thresholds',
        metavar='FILE.json',
        help='one threshold a class (default: thresholds.json beside the '
        'checkpoint)',
    )


def check_predict(parser: options.Parser, args: argparse.Namespace) -> None:
    """Checks the numbers and the files of a prediction."""
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        parser.error(f'--threshold must be in [0, 1], got {args.threshold}')
    options.check_model(args)
    options.check_source(args.input, 'image or folder')


def merge_parser() -> options.Parser:
    """Builds the parser of ``merge_branches.py``."""
    parser = options.Parser(
        description='Merge the two branches of a checkpoint into a stock '
        'ImageClassifier of MMPretrain'
    )
    options.add_model(parser, ' of the training')
    parser.add_argument(
        'out',
        type=options.output_file,
        metavar='OUT.pth',
        help='checkpoint to write; its config OUT.py goes beside it',
    )
    parser.add_argument(
        '--bn-images',
        type=int,
        default=0,
        metavar='N',
        help='measure the statistics of the merged BatchNorms on N training '
        'images (default: average those of the branches)',
    )
    options.add_cfg_options(parser)
    parser.add_argument(
        '--force', action='store_true', help='overwrite existing output'
    )
    add_safetensors(parser)
    return parser


def check_merge(parser: options.Parser, args: argparse.Namespace) -> None:
    """Checks that both files can be read, and the output be written."""
    if not args.out.endswith('.pth'):
        parser.error(f'OUT must end with .pth, got {args.out}')
    if args.bn_images < 0:
        parser.error(f'--bn-images must not be negative: {args.bn_images}')
    options.check_model(args)
    _check_targets(args, args.out, str(Path(args.out).with_suffix('.py')))


def _check_targets(args: argparse.Namespace, *targets: str) -> None:
    """Checks that what is read or there is not overwritten unasked."""
    read = [os.path.realpath(p) for p in (args.config, args.checkpoint)]
    for target in targets:
        if os.path.realpath(target) in read or os.path.isdir(target):
            kind = 'a folder' if os.path.isdir(target) else 'read'
            raise ValueError(f'{target} is {kind}; give another name')
        if os.path.lexists(target) and not args.force:
            raise ValueError(f'{target} exists; pass --force to overwrite it')


def export_parser() -> options.Parser:
    """Builds the parser of ``export.py``."""
    parser = options.Parser(
        description='Export a network for deployment: pixels in, scores out'
    )
    options.add_model(parser, ' of the training, or of a merged network')
    parser.add_argument(
        'out', type=options.output_file, metavar='OUT', help='file to write'
    )
    parser.add_argument(
        '--format',
        choices=EXPORT_FORMATS,
        default='onnx',
        help='ONNX, torch.export or TorchScript (default: onnx)',
    )
    parser.add_argument(
        '--without-preprocessing',
        action='store_true',
        help='take the normalised input of the network, float32 '
        '(N, 3, h, w), in place of RGB pixels, uint8 (N, H, W, 3)',
    )
    parser.add_argument(
        '--int8',
        type=options.output_file,
        metavar='OUT.onnx',
        help='write the network in 8 bits, too, and measure the mAP it loses',
    )
    parser.add_argument(
        '--int8-images',
        type=options.positive,
        default=200,
        metavar='N',
        help='training images to measure ranges on (default: 200)',
    )
    add_thresholds(parser)
    options.add_cfg_options(parser)
    parser.add_argument(
        '--force', action='store_true', help='overwrite existing output'
    )
    return parser


def check_export(parser: options.Parser, args: argparse.Namespace) -> None:
    """Checks that the files can be read, and the output be written."""
    bare = args.format != 'onnx' or args.without_preprocessing
    if args.int8 is not None and bare:
        parser.error('--int8 is of ONNX files with preprocessing')
    options.check_model(args)
    targets = [path for path in (args.out, args.int8) if path is not None]
    _check_targets(args, *targets)
    if len({os.path.realpath(target) for target in targets}) < len(targets):
        raise ValueError(f'--int8 {args.int8} is OUT; give another file')


def to_safetensors_parser() -> options.Parser:
    """Builds the parser of ``to_safetensors.py``."""
    parser = options.Parser(
        description='Write weights as safetensors, and a model card'
    )
    options.add_model(parser, ' of the training')
    parser.add_argument(
        'out',
        type=_shared,
        nargs='?',
        metavar='OUT',
        help='a file OUT.safetensors, whose card is OUT.md; or a folder to '
        'upload: model.safetensors, config.py, README.md, and '
        'thresholds.json where there is one (default: beside the checkpoint)',
    )
    parser.add_argument(
        '--license',
        default='unknown',
        help='the licence field of the card (default: unknown)',
    )
    parser.add_argument(
        '--results',
        nargs='+',
        default=[],
        metavar='FILE.json',
        help='figures for the card: what test.py --out wrote, or a class '
        'report (default: the class reports beside the checkpoint)',
    )
    add_thresholds(parser)
    options.add_cfg_options(parser)
    return parser


def _shared(text: str) -> str:
    is_file = text.endswith(SAFETENSORS)
    return (
        options.output_file(text) if is_file else options.output_folder(text)
    )


def check_to_safetensors(
    parser: options.Parser, args: argparse.Namespace
) -> None:
    """Checks the files that are read, and that none is replaced."""
    options.check_model(args)
    for path in args.results:
        options.check_source(path, 'file')
    if args.out is None:
        args.out = str(Path(args.checkpoint).with_suffix(SAFETENSORS))
    if os.path.realpath(args.out) == os.path.realpath(args.checkpoint):
        raise ValueError(f'{args.out} is read; give another OUT')
