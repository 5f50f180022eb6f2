"""Serves a page to try a model: the logic of ``tools/demo_page.py``."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from PIL import Image

from ltml_cli import parse
from ltml_mm.apis.inferencer import MultiLabelInferencer
from ltml_mm.apis.model import DEFAULT_THRESHOLD
from ltml_mm.datasets.images import (
    FORMATS,
    UnreadableImageError,
    printable,
)
from ltml_mm.decisions.thresholds import logit, sigmoid
from ltml_mm.evaluation.grouped_average_precision import BRANCHES_KEY
from ltml_mm.inspection.attention import Attention, has_grad_cam
from ltml_mm.inspection.evidence import (
    build_training_set,
    class_groups,
    head_inputs,
    joined_features,
    observe,
    spread,
)
from ltml_mm.inspection.model_report import environment
from ltml_mm.inspection.neighbours import Features
from ltml_mm.inspection.thumbnails import data_uri, heat_uri, shrink

#: What one drop may hold: files, and of each bytes and pixels.
MAX_FILES, MAX_FILE_BYTES, MAX_FILE_PIXELS = 12, 20 * 2**20, 50_000_000
#: Pictures a session keeps, and sessions the server does.
MAX_PICTURES, MAX_SESSIONS = 24, 20
#: The classes below the threshold that a group shows, and the neighbours.
NEXT_BEST, NEAREST = 3, 5
SIDE, QUALITY = 240, 80
BEST = 'the first class of each picture'
#: What to install for the page.
EXTRA = 'pip install "ltml_mm[web]"'


@dataclass
class Seen:
    """A picture that was dropped, and what the network says of it.

    Attributes:
        name: Of its file.
        inputs: As the network takes it, (1, C, H, W).
        scores: Of each class, (K,).
        branches: Those of each branch.
        near: The nearest training pictures.
        uri, ratio: Its thumbnail, and width over height.
        heats: Maps by class and branch.
    """

    name: str
    inputs: torch.Tensor
    scores: np.ndarray
    branches: dict[str, np.ndarray]
    near: list[dict[str, Any]]
    uri: str
    ratio: float
    heats: dict[int, dict[str, str]] = field(default_factory=dict)


class Trial:
    """What stands behind the page: the model and its training pictures.

    Args:
        inferencer: The model.
        train_images: Training pictures to find the nearest among.
    """

    def __init__(
        self, inferencer: MultiLabelInferencer, train_images: int
    ) -> None:
        self.inferencer = inferencer
        self.names = [info['name'] for info in inferencer.class_info]
        groups = class_groups(inferencer.class_info)
        everything = groups.pop('all')
        self.groups = groups or {'all': everything}
        thresholds = np.full(len(self.names), DEFAULT_THRESHOLD)
        if inferencer.thresholds is not None:
            thresholds = inferencer.thresholds.values
        self.thresholds = thresholds
        #: Where the slider of each group starts.
        self.start = {
            name: round(float(np.median(thresholds[members])), 2)
            for name, members in self.groups.items()
        }
        self.looks: dict[str, Attention] = {}
        self.note = 'Drop pictures to see their labels.'
        self.training: Any = None
        if train_images:
            self._index(train_images)

    def _index(self, most: int) -> None:
        """Keeps the features of training pictures."""
        config = self.inferencer.config
        try:
            self.training = build_training_set(config)
            self.chosen = spread(len(self.training), most)
            self.features = Features(len(self.chosen))
            for vectors, images in observe(
                self.inferencer.model, config, self.training, self.chosen
            ):
                self.features.add(vectors, images)
        # Its files may lie on another machine, or be gone.
        except (OSError, ValueError) as error:
            self.training = None
            reason = f'the training pictures cannot be read: {error}'
            print(f'no nearest training pictures: {reason}', file=sys.stderr)
            self.note += ' The training pictures are not at hand.'

    def look_at(self, path: str) -> Seen:
        """Runs the network on an uploaded file.

        Raises:
            UnreadableImageError: It cannot be read, or is too large.
        """
        name = printable(Path(path).name)
        if os.path.getsize(path) > MAX_FILE_BYTES:
            raise UnreadableImageError(name, 'the file is too large')
        self._check_pixels(path, name)
        item = self.inferencer.pipeline(path)
        model = self.inferencer.model
        with head_inputs(model) as seen, torch.no_grad():
            sample = model.test_step(pseudo_collate([item]))[0]
        data = model.data_preprocessor(pseudo_collate([item]), False)
        pixels = shrink(item['inputs'], SIDE)
        branches = sample.get(BRANCHES_KEY) or {}
        return Seen(
            name=name,
            inputs=data['inputs'],
            scores=sample.pred_score.float().cpu().numpy(),
            branches={k: v.float().cpu().numpy() for k, v in branches.items()},
            near=self._nearest(joined_features(seen)),
            uri=data_uri(pixels, SIDE, QUALITY),
            ratio=pixels.shape[1] / pixels.shape[0],
        )

    def _check_pixels(self, path: str, name: str) -> None:
        try:
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
        # The inferencer's loader says what is wrong.
        except Exception:
            return
        if width * height > MAX_FILE_PIXELS:
            millions = MAX_FILE_PIXELS // 1_000_000
            raise UnreadableImageError(
                name, f'it has more than {millions} million pixels'
            )

    def _nearest(self, vectors: np.ndarray | None) -> list[dict[str, Any]]:
        """Describes the training pictures most like one, (1, C)."""
        if self.training is None or vectors is None:
            return []
        vector = self.features.project(vectors)[0].astype(np.float32)
        near = []
        for place in self.features.nearest(vector, NEAREST):
            item = self.training[self.chosen[place]]
            pixels = shrink(item['inputs'], SIDE // 2)
            labels = item['data_samples'].get('gt_label', [])
            own = self.features.vectors[place].astype(np.float32)
            near.append(
                {
                    'uri': data_uri(pixels, SIDE // 2, QUALITY),
                    'ratio': pixels.shape[1] / pixels.shape[0],
                    'labels': [self.names[k] for k in labels],
                    'cosine': float(own @ vector),
                }
            )
        return near

    def moved(self, sliders: Sequence[float]) -> np.ndarray:
        """Moves the thresholds as the sliders say, one a group.

        A slider moves the logits of all thresholds of its group alike: where
        these are equal, it is the threshold.
        """
        moved = self.thresholds.astype(float)
        for (name, members), value in zip(
            self.groups.items(), sliders, strict=True
        ):
            shift = logit(value) - logit(self.start[name])
            moved[members] = sigmoid(logit(moved[members]) + shift)
        return moved

    def heat(self, seen: Seen, k: int) -> dict[str, str]:
        """Returns the maps of a class, by branch; nothing without them."""
        if k not in seen.heats:
            seen.heats[k] = {}
            try:
                for name in [*seen.branches] or ['']:
                    if has_grad_cam() and name not in self.looks:
                        self.looks[name] = Attention(
                            self.inferencer.model, seen.inputs, name
                        )
                    if name in self.looks:
                        heat = self.looks[name](seen.inputs, [k])[0]
                        seen.heats[k][name] = heat_uri(heat)
            except ValueError as error:
                print(f'no Grad-CAM: {error}', file=sys.stderr)
        return seen.heats[k]

    def describe(
        self, seen: Seen, thresholds: np.ndarray, looked_for: str
    ) -> dict[str, Any]:
        """Describes a picture for the template."""
        margin = logit(seen.scores) - logit(thresholds)
        k = int(margin.argmax())
        if looked_for in self.names:
            k = self.names.index(looked_for)
        groups = []
        for name, members in self.groups.items():
            order = np.array(members)[np.argsort(-margin[members])]
            fires = int((seen.scores[order] >= thresholds[order]).sum())
            rows = [
                {
                    'name': self.names[j],
                    'score': float(seen.scores[j]),
                    'threshold': float(thresholds[j]),
                    'fires': bool(seen.scores[j] >= thresholds[j]),
                    'branches': {
                        b: float(scores[j])
                        for b, scores in seen.branches.items()
                    },
                }
                for j in order[: fires + NEXT_BEST]
            ]
            size = len(members)
            groups.append(dict(name=name, rows=rows, fires=fires, size=size))
        return {
            **vars(seen),
            'heats': self.heat(seen, k),
            'looked_for': self.names[k],
            'groups': groups,
        }

    def render(
        self,
        pictures: Sequence[Seen],
        looked_for: str,
        sliders: Sequence[float],
        troubles: Sequence[str] = (),
    ) -> str:
        """Renders pictures, the last first, and sentences on the others."""
        thresholds = self.moved(sliders)
        return (
            environment()
            .get_template('demo.html.j2')
            .render(
                troubles=troubles,
                note=self.note,
                pictures=[
                    self.describe(seen, thresholds, looked_for)
                    for seen in pictures
                ],
            )
        )

    def take(
        self, files: Sequence[str] | None, kept: Sequence[Seen]
    ) -> tuple[list[Seen], list[str]]:
        """Looks at uploaded files, and deletes them.

        Returns:
            tuple: The pictures, the new ones first, and a sentence for each
            file that was left out.
        """
        found, troubles = [], []
        for number, path in enumerate(files or ()):
            try:
                if number < MAX_FILES:
                    found.append(self.look_at(path))
            except UnreadableImageError as error:
                name = printable(Path(path).name)
                troubles.append(f'{name} was left out: {error.reason}.')
            finally:
                # Each upload has a folder of its own.
                shutil.rmtree(Path(path).parent, ignore_errors=True)
        if files and len(files) > MAX_FILES:
            troubles.append(
                f'{len(files) - MAX_FILES} files were left out: at most '
                f'{MAX_FILES} at a time.'
            )
        return [*found, *kept][:MAX_PICTURES], troubles


def build_page(trial: Trial, title: str) -> Any:
    """Builds the page, a ``gradio.Blocks``."""
    import gradio as gr

    with gr.Blocks(
        title=title, analytics_enabled=False, delete_cache=(60, 600)
    ) as page:
        pictures = gr.State([], time_to_live=3600)
        gr.Markdown(f'# {title}')
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                files = gr.File(
                    label=f'Pictures, up to {MAX_FILES} at a time',
                    file_count='multiple',
                    type='filepath',
                    height=150,
                )
                sliders = [
                    gr.Slider(
                        0.01,
                        0.99,
                        trial.start[name],
                        step=0.01,
                        label=f'Threshold of {name} classes',
                    )
                    for name in trial.groups
                ]
                looked_for = gr.Dropdown(
                    [BEST, *trial.names], value=BEST, label='Grad-CAM of'
                )
                clear = gr.Button('Clear', size='sm')
            with gr.Column(scale=3, min_width=320):
                start = [trial.start[name] for name in trial.groups]
                shown = gr.HTML(
                    trial.render([], BEST, start), apply_default_css=False
                )

        def on_upload(
            paths: Any, kept: Any, wanted: str, *values: float
        ) -> Any:
            kept, troubles = trial.take(paths, kept)
            html = trial.render(kept, wanted, values, troubles)
            return None, kept, html

        def on_change(kept: Any, wanted: str, *values: float) -> str:
            return trial.render(kept, wanted, values)

        # One at a time: the network has hooks while it runs.
        once: dict[str, Any] = dict(
            concurrency_limit=1,
            concurrency_id='model',
            api_visibility='private',
        )
        asked = [pictures, looked_for, *sliders]
        files.upload(
            on_upload, [files, *asked], [files, pictures, shown], **once
        )
        for control in sliders:
            control.release(on_change, asked, shown, **once)
        looked_for.change(on_change, asked, shown, **once)
        clear.click(
            lambda wanted, *v: ([], trial.render([], wanted, v)),
            asked[1:],
            [pictures, shown],
            **once,
        )
    return page


def main(argv: Sequence[str] | None = None) -> None:
    """Serves the page until it is interrupted."""
    args = parse('demo-page', argv)
    trial = load_trial(args)
    signal.signal(signal.SIGTERM, _stop)
    with TemporaryDirectory(prefix='ltml_page_') as folder:
        server = serve(trial, args.host, args.port, folder)
        print(f'Serving on {server.local_url} until Ctrl-C', flush=True)
        try:
            server.block_thread()
        finally:
            server.close()


def load_trial(args: Any) -> Trial:
    """Loads the model, its thresholds and its training pictures."""
    if not has_gradio():
        raise ValueError(f'the page needs the package gradio: {EXTRA}')
    inferencer = MultiLabelInferencer(
        args.config,
        args.checkpoint,
        args.device,
        args.cfg_options,
        thresholds=args.thresholds,
    )
    if inferencer.thresholds is None:
        print(inferencer.thresholds_note, file=sys.stderr)
    if not has_grad_cam():
        print(f'Grad-CAM needs the package grad-cam: {EXTRA}', file=sys.stderr)
    return Trial(inferencer, args.train_images)


def serve(trial: Trial, host: str, port: int, folder: str) -> Any:
    """Starts the server, and returns the page that it serves.

    Args:
        trial: What stands behind it.
        host: Address to serve on.
        port: Its port.
        folder: Where uploads are kept until they were looked at.
    """
    # Read when gradio is imported, and at each upload.
    os.environ.update(GRADIO_ANALYTICS_ENABLED='False', GRADIO_TEMP_DIR=folder)
    import gradio as gr

    fonts = ['system-ui', 'sans-serif']
    page = build_page(trial, 'Try the model')
    page.queue(max_size=32, default_concurrency_limit=1).launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_FILE_BYTES,
        state_session_capacity=MAX_SESSIONS,
        footer_links=[],
        ssr_mode=False,
        theme=gr.themes.Base(font=fonts, font_mono=['monospace']),
    )
    return page


def _stop(signum: int, frame: FrameType | None) -> None:
    # Leaves the folder of uploads behind otherwise.
    sys.exit(0)


def has_gradio() -> bool:
    """Tells whether the package ``gradio`` is installed."""
    from importlib.util import find_spec

    return find_spec('gradio') is not None
