"""Predicts the classes of images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from mmpretrain.apis.base import BaseInferencer
from mmpretrain.structures import DataSample
from PIL import Image, ImageOps

from ltml_cli.run_parsers import DEFAULT_THRESHOLD
from ltml_mm.apis.model import (
    check_selection,
    load_network,
    pick_device,
    scope_of,
)
from ltml_mm.datasets.images import (
    EXTENSIONS,
    UnreadableImageError,
    check_image,
    first_line,
    load_image,
    printable,
)
from ltml_mm.decisions.thresholds import find_thresholds
from ltml_mm.engine.hooks.device_hook import arrange, layout_of, picture_side
from ltml_mm.inspection.pictures import draw_prediction

#: A path, a Pillow image, or BGR pixels, uint8 of shape (H, W, 3).
ImageInput = str | Path | Image.Image | np.ndarray


class MultiLabelInferencer(BaseInferencer):
    """Predicts all classes of an image, with their scores and groups.

    Serves two-branch models and stock baselines. Images go through the
    config's test pipeline: a score is the one that an evaluation computes.

    Args:
        model (str | Path): The config file.
        pretrained (str | Path): The checkpoint, the only file of weights
            that is read. The names and training counts of the classes come
            from it, or from the config where it has none.
        device (str, optional): By default a GPU where there is one.
        cfg_options (dict, optional): Overrides of the config.
        thresholds (str | Path, optional): The file of the classes'
            thresholds. By default ``thresholds.json`` beside the checkpoint,
            where it is there and of this model.

    Attributes:
        thresholds (Thresholds | None): One threshold a class.
        thresholds_note (str): Their file; or, where there are none, a line
            that says why and what to do.
        class_info (list[dict]): ``name``, ``group`` and ``train_images`` of
            each class, in the order of the scores; the latter two are None
            where no counts are known.

    Raises:
        CheckpointError: The checkpoint cannot be read, or does not fit.
        FileNotFoundError: The config does not exist.
        ValueError: The device does not exist, or no class names are known.
    """

    def __init__(
        self,
        model: str | Path,
        pretrained: str | Path,
        device: str | None = None,
        cfg_options: Mapping[str, Any] | None = None,
        thresholds: str | Path | None = None,
    ) -> None:
        network = load_network(model, pretrained, device, cfg_options)
        network.model._config = network.cfg
        super().__init__(
            network.model, pretrained=False, device=pick_device(device)
        )
        side = picture_side(network.cfg.get('test_dataloader'))
        arrange(self.model, layout_of(network.cfg), side)
        self.class_info = network.class_info
        self.thresholds, self.thresholds_note = find_thresholds(
            pretrained, network.digest, network.names, thresholds
        )

    def __call__(
        self,
        inputs: ImageInput | Sequence[ImageInput],
        return_datasamples: bool = False,
        batch_size: int = 1,
        threshold: float | None = None,
        topk: int | None = None,
        draw: bool = False,
        calibrated: bool = False,
    ) -> list:
        """Predicts the classes of images.

        Args:
            inputs (str | Path | Image | ndarray | list): An image, a list or
                an iterator of them, or a folder, which is searched with those
                in it. An image is a path, a Pillow image or BGR pixels, uint8
                of shape (H, W, 3).
            return_datasamples (bool): Whether to return what the model
                returns, by branch too, instead of dicts.
            batch_size (int): Images a step.
            threshold (float, optional): The least score of a predicted
                class. By default that of its class, else 0.5.
            topk (int, optional): How many classes, whatever their scores.
            draw (bool): Whether to add ``picture``, the annotated image, RGB
                of shape (H, W, 3).
            calibrated (bool): Whether to give calibrated scores, for which
                the thresholds need a calibration. The classes stay.

        Returns:
            list[dict] | list[DataSample]: For each image its ``path`` (None
            in memory), ``labels``, the predicted classes by decreasing
            score, and ``scores``, those of all classes by name.

        Raises:
            UnreadableImageError: An image cannot be read.
            ValueError: An argument is out of range, a score not finite, or
                there is no calibration.
        """
        check_selection(threshold, topk, len(self.class_info))
        results: list[Any] = []
        images = self._inputs_to_list(inputs)
        for image, sample in self.stream(images, batch_size):
            if return_datasamples:
                results.append(sample)
                continue
            record = self.record(sample, threshold, topk, calibrated)
            if draw:
                picture = self.draw(image, record['labels'])
                record['picture'] = np.asarray(picture)
            results.append(record)
        return results

    def record(
        self,
        sample: DataSample,
        threshold: float | None = None,
        topk: int | None = None,
        calibrated: bool = False,
    ) -> dict[str, Any]:
        """Turns a prediction, ``pred_score`` (K,), into a dict.

        See :meth:`__call__`. Without ``threshold`` and ``topk`` the classes'
        thresholds decide on the model's own scores, calibrated or not.

        Raises:
            ValueError: A score is not finite, there is not one per class, or
                there is no calibration.
        """
        classes, thresholds = self.class_info, self.thresholds
        scores = sample.pred_score.detach().float().cpu()
        if scores.shape != (len(classes),):
            raise ValueError(
                f'the model gives {scores.numel()} scores, but {len(classes)} '
                'class names are known'
            )
        if not torch.isfinite(scores).all():
            name = printable(sample.get('img_path', 'an image'))
            raise ValueError(
                f'the model gives a score that is not finite for {name}: its '
                'weights are broken'
            )
        decided, least = None, None
        if thresholds is not None and threshold is None and topk is None:
            decided = torch.from_numpy(thresholds.decide(scores.numpy()))
            least = thresholds.values
        if calibrated:
            if thresholds is None:
                raise ValueError(
                    'there are no thresholds, which hold the calibration; '
                    'tools/analysis/thresholds.py CONFIG CKPT writes them'
                )
            shown = thresholds.calibrate(scores.numpy())
            scores = torch.from_numpy(shown).float()
            least = None if least is None else thresholds.calibrate(least)
        order = scores.argsort(descending=True, stable=True)
        if topk is not None:
            order = order[:topk]
        elif decided is not None:
            order = order[decided[order]]
        else:
            limit = DEFAULT_THRESHOLD if threshold is None else threshold
            order = order[scores[order] >= limit]
        values = scores.tolist()
        names = [info['name'] for info in classes]
        labels = []
        for k in order.tolist():
            label = {**classes[k], 'score': values[k]}
            if least is not None:
                label['threshold'] = float(least[k])
            labels.append(label)
        return {
            'path': sample.get('img_path'),
            'labels': labels,
            'scores': dict(zip(names, values, strict=True)),
        }

    def stream(
        self,
        inputs: Iterable[ImageInput],
        batch_size: int = 1,
        on_error: Callable[[UnreadableImageError], None] | None = None,
    ) -> Iterator[tuple[ImageInput, DataSample]]:
        """Yields images and their predictions; keeps none of them.

        Args:
            inputs: The images, any number.
            batch_size: Images a step.
            on_error: Called with the error of an image that cannot be read,
                which is then left out; by default the error is raised.
        """
        if batch_size < 1:
            raise ValueError(
                f'the batch size must be at least 1, got {batch_size}'
            )

        def readable() -> Iterator[tuple[ImageInput, Any]]:
            for image in inputs:
                try:
                    yield image, self.pipeline(image)
                except UnreadableImageError as error:
                    if on_error is None:
                        raise
                    on_error(error)

        for chunk in self._get_chunk_data(readable(), batch_size):
            images, data = zip(*chunk, strict=True)
            predictions = self.forward(default_collate(data))
            yield from zip(images, predictions, strict=True)

    def load(self, image: ImageInput) -> dict[str, Any]:
        """Loads an image as the test pipeline does.

        Returns:
            dict: ``img``, BGR of shape (H, W, 3), beside its shapes.

        Raises:
            UnreadableImageError: The file cannot be read; says why.
            ValueError: The pixels have another shape, dtype or mode.
        """
        if isinstance(image, Image.Image):
            image = _pillow_pixels(image)
        if not isinstance(image, (np.ndarray, str, Path)):
            raise ValueError(
                'an image is a path, a Pillow image or BGR pixels, uint8 of '
                f'shape (H, W, 3), got {type(image).__name__}'
            )
        if not isinstance(image, np.ndarray):
            check_image(image)
            return load_image(self._loader, {'img_path': str(image)})
        shape = image.shape
        if image.dtype != np.uint8 or shape[2:] != (3,) or not image.size:
            raise ValueError(
                'an image must be BGR pixels, uint8 of shape (H, W, 3), got '
                f'{image.dtype} of shape {shape}'
            )
        return {'img': image, 'img_shape': shape[:2], 'ori_shape': shape[:2]}

    def draw(
        self, image: ImageInput, labels: Sequence[Mapping[str, Any]]
    ) -> Any:
        """Draws one annotated picture, a ``PIL.Image.Image``."""
        pixels = self.load(image)['img'][..., ::-1]
        names = [info['name'] for info in self.class_info]
        scores = {label['name']: label['score'] for label in labels}
        return draw_prediction(
            pixels.clip(0, 255).astype(np.uint8),
            names,
            [scores.get(name, 0.0) for name in names],
            [k for k, name in enumerate(names) if name in scores],
        )

    def _init_pipeline(self, cfg: Config) -> Callable[[ImageInput], Any]:
        dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
        steps = dataset.get('pipeline')
        if not steps:
            raise ValueError(
                'the config has no test_dataloader with pipeline; add '
                'test_dataloader.dataset.pipeline'
            )
        loading = [step for step in steps if _loads(step)]
        with DefaultScope.overwrite_default_scope(scope_of(cfg)):
            # A set made in memory has images, not files to load.
            self._loader = Compose(loading or [{'type': 'LoadCheckedImage'}])
            rest = Compose([step for step in steps if not _loads(step)])
        return lambda image: rest(self.load(image))

    def _inputs_to_list(self, inputs: Any) -> list[ImageInput]:
        if isinstance(inputs, (list, tuple, Iterator)):
            return list(inputs)
        if isinstance(inputs, str) and not inputs:
            raise ValueError("an image's path is empty")  # not this folder
        if not isinstance(inputs, (str, Path)) or not Path(inputs).is_dir():
            return [inputs]
        images, skipped = find_images(inputs)
        for error in skipped:
            print_log(f'skipped {error}', 'current', logging.WARNING)
        return list(images)


def _loads(step: Mapping[str, Any]) -> bool:
    name = getattr(step['type'], '__name__', step['type'])
    return name.split('.')[-1].startswith('Load')


def _pillow_pixels(image: Image.Image) -> np.ndarray:
    """Converts to BGR as a file is loaded: rotated as EXIF says."""
    if image.mode[0] in 'IF':  # 16 bits and more, which Pillow would clip
        raise ValueError(
            f'a Pillow image of mode {image.mode} has no colours; make it RGB'
        )
    try:
        rgb = ImageOps.exif_transpose(image).convert('RGB')
    # A file is decoded here, and its content may be broken in every way.
    except Exception as error:
        name = getattr(image, 'filename', '') or 'a Pillow image'
        raise UnreadableImageError(name, first_line(error)) from error
    return np.asarray(rgb)[..., ::-1]


def find_images(
    folder: str | Path, leave_out: str | Path | None = None
) -> tuple[list[Path], list[UnreadableImageError]]:
    """Lists the images of a folder and of the folders in it, by extension.

    Links that point out of the folder are not followed, nor are links to
    folders within, whose files are found anyway.

    Returns:
        tuple: The images, sorted by path; and an error for each link that
        points out, each image name that is no regular file, and each folder
        that cannot be listed.
    """
    root = os.path.realpath(folder)
    hidden = None if leave_out is None else os.path.realpath(leave_out)
    images, skipped = [], []
    # Not rglob or os.walk, which recurse: folders may lie thousands deep.
    pending = [(Path(folder), root)]
    while pending:
        place, real = pending.pop()
        try:
            paths = list(place.iterdir())
        except OSError:
            reason = 'this folder cannot be listed'
            skipped.append(UnreadableImageError(place, reason))
            continue
        for path in paths:
            is_image = path.name.lower().endswith(EXTENSIONS)
            is_link = path.is_symlink()
            # What is no link lies where its folder does.
            target = os.path.join(real, path.name)
            target = os.path.realpath(path) if is_link else target
            if is_link and not Path(target).is_relative_to(root):
                if is_image or path.is_dir():
                    reason = 'a link that points out of the folder'
                    skipped.append(UnreadableImageError(path, reason))
            elif path.is_dir():
                if not is_link and target != hidden:
                    pending.append((path, target))
            elif is_image and path.is_file():
                images.append(path)
            elif is_image:
                reason = 'not a regular file'
                skipped.append(UnreadableImageError(path, reason))
    return sorted(images), sorted(skipped, key=lambda error: error.path)
