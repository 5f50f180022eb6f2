"""Writes a network for deployment: ``tools/model_converters/export.py``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmpretrain.models.heads import MultiLabelClsHead
from torch import Tensor, nn

from ltml_cli import parse
from ltml_cli.run_parsers import DEFAULT_THRESHOLD
from ltml_mm.apis.inferencer import MultiLabelInferencer
from ltml_mm.export.preprocessing import build_preprocessing
from ltml_mm.export.quantization import quantize
from ltml_mm.files import write_bytes
from ltml_mm.models import CollaborativeTwoBranchClassifier
from ltml_mm.models.parts import free_batch

#: The largest difference of a score from that of ``predict.py``.
TOLERANCE = 1e-4
#: Height and width of the pictures that a file is checked with, and how many.
CHECKS = (((90, 120), 2), ((300, 200), 1), ((224, 224), 3))
#: The entry of a torch file that holds the facts.
FACTS_FILE = 'ltml_mm.json'

Run = Callable[[np.ndarray], np.ndarray]


class Scorer(nn.Module):
    """A network from its input, or from pixels, to the scores.

    Args:
        network: A trained multi-label classifier.
        preprocessing: What makes its input of pixels, None for nothing.
    """

    def __init__(
        self, network: nn.Module, preprocessing: nn.Module | None
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Returns scores, float32 (N, K), from 0 to 1."""
        if self.preprocessing is not None:
            images = self.preprocessing(images)
        return self.network(images, mode='tensor').float().sigmoid()


def main(argv: Sequence[str] | None = None) -> None:
    """Exports what the command line asks for, and tells what was checked."""
    args = parse('export', argv)
    inferencer = MultiLabelInferencer(
        args.config, args.checkpoint, 'cpu', args.cfg_options, args.thresholds
    )
    difference = export(
        inferencer, args.out, args.format, not args.without_preprocessing
    )
    size = Path(args.out).stat().st_size / 2**20
    print(
        f'{args.out} written ({args.format}, {size:.1f} MiB): its scores are '
        f"within {difference:.1e} of predict.py's"
    )
    if inferencer.thresholds is None:
        print(
            f'its metadata say {DEFAULT_THRESHOLD} for every class: '
            f'{inferencer.thresholds_note}'
        )
    if args.int8 is not None:
        print(quantize(inferencer, args.out, args.int8, args.int8_images))


def export(
    inferencer: MultiLabelInferencer,
    out: str | Path,
    kind: str = 'onnx',
    with_preprocessing: bool = True,
) -> float:
    """Writes a file that gives a network's scores without this package.

    The file takes any number of images. With preprocessing they are RGB
    pixels ``images``, uint8 (N, H, W, 3) of any height and width; without,
    the network's input, float32 (N, C, h, w) of the pipeline's size. It
    returns ``scores``, float32 (N, K). Its metadata are the :func:`facts`.

    Args:
        inferencer: The network, on the CPU, with its classes and thresholds.
        out: The file to write.
        kind: ``'onnx'``, ``'torch_export'`` or ``'torchscript'``.
        with_preprocessing: Whether the file resizes and normalises.

    Returns:
        float: The largest difference of a score from the inferencer's, over
        random pictures of several sizes and numbers.

    Raises:
        ImportError: A package that the format needs is not installed.
        ValueError: The network is no multi-label classifier, a step of the
            pipeline has no counterpart, or the file gives other scores; then
            it is not written.
    """
    network = free_batch(inferencer.model.eval())
    _check_network(network)
    preprocessing = None
    if with_preprocessing:
        dataset = inferencer.config.test_dataloader.dataset
        preprocessing = build_preprocessing(
            dataset.pipeline, network.data_preprocessor
        )
    scorer = Scorer(network, preprocessing).eval()
    checks = list(_checks(inferencer, with_preprocessing))
    known = json.dumps(facts(inferencer, with_preprocessing))
    with torch.no_grad(), warnings.catch_warnings():
        # Of the exporters, about their own future.
        warnings.simplefilter('ignore')
        content = _EXPORTERS[kind](scorer, torch.from_numpy(checks[0][0]))
        content = _ANNOTATE[kind](content, known)
    difference = _difference(_LOADERS[kind](content), checks)
    if not difference <= TOLERANCE:
        raise ValueError(
            f'the exported network gives other scores than predict.py, by up '
            f'to {difference:.1e}: {out} is not written. '
            'Another --format may do'
        )
    write_bytes(out, content)
    return difference


def facts(
    inferencer: MultiLabelInferencer, with_preprocessing: bool
) -> dict[str, Any]:
    """Describes a network, for the metadata of its file.

    Returns:
        dict: ``classes``, their names in the order of the scores;
        ``groups`` and ``train_images``, None where unknown; ``thresholds``,
        the least score of a predicted class; ``thresholds_for``, what they
        were chosen for, None where they are a guess; ``preprocessing``,
        whether it is part of the file.
    """
    infos = inferencer.class_info
    chosen = inferencer.thresholds
    guess = [DEFAULT_THRESHOLD] * len(infos)
    return {
        'classes': [info['name'] for info in infos],
        'groups': [info['group'] for info in infos],
        'train_images': [info['train_images'] for info in infos],
        'thresholds': guess if chosen is None else chosen.values.tolist(),
        'thresholds_for': None if chosen is None else chosen.metric,
        'preprocessing': with_preprocessing,
    }


def _check_network(network: Any) -> None:
    if isinstance(network, CollaborativeTwoBranchClassifier):
        return
    head = getattr(network, 'head', None)
    if not isinstance(head, MultiLabelClsHead):
        raise ValueError(
            f'a {type(network).__name__} with a {type(head).__name__} is no '
            'multi-label classifier: its scores are no sigmoids'
        )


def _checks(
    inferencer: MultiLabelInferencer, with_preprocessing: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields inputs of the file, and the scores that they must give."""
    rng = np.random.default_rng(0)
    for size, count in CHECKS:
        pictures = rng.integers(0, 256, (count, *size, 3), np.uint8)
        records = inferencer([picture[..., ::-1] for picture in pictures])
        scores = np.array([[*record['scores'].values()] for record in records])
        inputs = pictures
        if not with_preprocessing:
            inputs = network_input(inferencer, pictures)
        yield inputs, scores


def network_input(
    inferencer: MultiLabelInferencer, pictures: np.ndarray
) -> np.ndarray:
    """Runs the pipeline on RGB pictures; float32 (N, C, h, w)."""
    rows = [inferencer.pipeline(picture[..., ::-1]) for picture in pictures]
    data = inferencer.model.data_preprocessor(default_collate(rows))
    return data['inputs'].numpy()


def _difference(
    run: Run, checks: Sequence[tuple[np.ndarray, np.ndarray]]
) -> float:
    """The largest difference of scores; infinite where they are not scores."""
    found = [run(inputs) for inputs, _ in checks]
    if any(
        scores.shape != expected.shape
        for scores, (_, expected) in zip(found, checks, strict=True)
    ):
        return float('inf')
    pairs = zip(found, checks, strict=True)
    return float(
        max(np.abs(scores - expected).max() for scores, (_, expected) in pairs)
    )


def _dynamic(images: Tensor) -> tuple[dict[int, Any]]:
    """Which axes of the input may have any length."""
    free = (0, 1, 2) if images.dtype == torch.uint8 else (0,)
    return (dict.fromkeys(free, torch.export.Dim.DYNAMIC),)


def _to_onnx(scorer: Scorer, images: Tensor) -> bytes:
    _need_onnx()
    program = torch.onnx.export(
        scorer,
        (images,),
        dynamo=True,
        dynamic_shapes=_dynamic(images),
        input_names=['images'],
        output_names=['scores'],
        verbose=False,
    )
    return program.model_proto.SerializeToString()  # type: ignore[union-attr]


def _to_torch_export(scorer: Scorer, images: Tensor) -> Any:
    return torch.export.export(
        scorer, (images,), dynamic_shapes=_dynamic(images)
    )


def _to_torchscript(scorer: Scorer, images: Tensor) -> Any:
    # Tracing would freeze the size of the images; only its arithmetic is
    # simple enough for the compiler of scripts.
    if scorer.preprocessing is None:
        return torch.jit.trace(scorer, (images,), check_trace=False)
    inputs = scorer.preprocessing(images)
    traced = torch.jit.trace(
        Scorer(scorer.network, None), (inputs,), check_trace=False
    )
    return torch.jit.script(
        nn.Sequential(torch.jit.script(scorer.preprocessing), traced)
    )


def _annotate_onnx(content: bytes, known: str) -> bytes:
    import onnx

    model = onnx.load_from_string(content)
    values = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in json.loads(known).items()
    }
    onnx.helper.set_model_props(model, values)
    return model.SerializeToString()


def _save(save: Callable[..., None], name: str) -> Callable[[Any, str], bytes]:
    def annotate(program: Any, known: str) -> bytes:
        buffer = BytesIO()
        save(program, buffer, **{name: {FACTS_FILE: known}})
        return buffer.getvalue()

    return annotate


def run_onnx(content: bytes | str) -> Run:
    """Returns a function that runs an ONNX file or its content."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        content, providers=['CPUExecutionProvider']
    )
    return lambda images: session.run(None, {'images': images})[0]


def _run_torch(
    load: Callable[[BytesIO], Callable[[Tensor], Tensor]],
) -> Callable[[bytes], Run]:
    def loader(content: bytes) -> Run:
        module = load(BytesIO(content))

        def run(images: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return module(torch.from_numpy(images)).numpy()

        return run

    return loader


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"--format onnx needs {error.name}: pip install 'ltml_mm[export]'"
        ) from error


_EXPORTERS: Mapping[str, Callable[[Scorer, Tensor], Any]] = {
    'onnx': _to_onnx,
    'torch_export': _to_torch_export,
    'torchscript': _to_torchscript,
}
_ANNOTATE: Mapping[str, Callable[[Any, str], bytes]] = {
    'onnx': _annotate_onnx,
    'torch_export': _save(torch.export.save, 'extra_files'),
    'torchscript': _save(torch.jit.save, '_extra_files'),
}
_LOADERS: Mapping[str, Callable[[bytes], Run]] = {
    'onnx': run_onnx,
    'torch_export': _run_torch(lambda f: torch.export.load(f).module()),
    'torchscript': _run_torch(torch.jit.load),
}
