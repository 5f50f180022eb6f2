"""The sampler that draws from two streams and numbers its draws."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sized
from typing import Any

import numpy as np
from mmengine.dataset import (
    BaseDataset,
    ClassBalancedDataset,
    ConcatDataset,
    RepeatDataset,
)
from mmengine.registry import DATA_SAMPLERS

from ltml_mm.datasets.samplers.stream import ImageStreamSampler, StreamSampler

#: Datasets whose items have a number and nothing else.
INDEXED = (BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset)
#: The key of a draw under which its (seed, epoch, position) stands.
DRAW = 'draw'


@DATA_SAMPLERS.register_module()
class TwoStreamSampler(StreamSampler):
    """Draws from several streams of one dataset at once.

    Every position is a dict that names an image of each stream, and the
    draw's number: ``{'uniform': 17, 'rebalanced': 4, 'draw': (seed, epoch,
    position)}``. :class:`TwoStreamDataset` resolves it. ``batch_size`` and
    the epoch length count pairs. With one stream it is a numbered draw of
    single images, as the baselines use it.

    Args:
        dataset (Sized): The dataset to draw from, with ``get_cat_ids``.
        streams (dict[str, dict]): Name and sampler config of each stream.
        epoch_length (str | int): Positions per epoch over all ranks: an
            int, or the name of the stream whose own length counts; the
            others are cut or continued to it.
        seed (int, optional): Seed of all streams, the same on all ranks.
            Defaults to None: one that the ranks agree on.

    Raises:
        ValueError: ``epoch_length`` names no stream or is not positive, or
            a stream's config sets its own seed.
    """

    def __init__(
        self,
        dataset: Sized,
        streams: Mapping[str, Mapping[str, Any]],
        epoch_length: str | int,
        seed: int | None = None,
    ) -> None:
        super().__init__(dataset, seed)
        if not streams or DRAW in streams:
            raise ValueError(
                f'streams must name at least one stream, none of them '
                f'{DRAW!r}; got {list(streams)}'
            )
        if isinstance(epoch_length, str):
            if epoch_length not in streams:
                raise ValueError(
                    f'epoch_length={epoch_length!r} names no stream; the '
                    f'streams are {list(streams)}'
                )
        elif type(epoch_length) is not int or epoch_length < 1:
            raise ValueError(
                'epoch_length must be the name of a stream or a positive '
                f'int, got {epoch_length!r}'
            )
        self.streams = {
            name: self._build_stream(name, config, epoch_length)
            for name, config in streams.items()
        }
        if isinstance(epoch_length, str):
            epoch_length = self.streams[epoch_length].epoch_length
        self.epoch_length = epoch_length

    def sequence(self, epoch: int) -> np.ndarray:
        """Returns one column per stream, int64 (epoch_length, streams)."""
        streams = self.streams.values()
        orders = [stream.order(epoch, self.epoch_length) for stream in streams]
        return np.stack(orders, axis=1)

    def __iter__(self) -> Iterator[dict]:
        """Iterates over this rank's draws.

        Raises:
            ValueError: The dataset is one that only plain indices can read.
        """
        if isinstance(self.dataset, INDEXED):
            raise ValueError(
                f'{type(self).__name__} draws pairs of images, which '
                f'{type(self.dataset).__name__} cannot read; wrap it: '
                "dataset=dict(type='TwoStreamDataset', dataset=dict(type="
                f"'{type(self.dataset).__name__}', ...))"
            )
        # Read now: set_epoch may come while an iterator is still in use.
        epoch, own = self.epoch, self.own_positions()
        rows = self.sequence(epoch)[own]
        # Row by row: as lists, an epoch takes eight times the memory.
        for position, row in zip(own, rows, strict=True):
            draw: dict = dict(zip(self.streams, row.tolist(), strict=True))
            draw[DRAW] = (self.seed, epoch, int(position))
            yield draw

    def set_seed(self, seed: int) -> None:
        """Replaces the seed of the order and of every stream."""
        super().set_seed(seed)
        for name, stream in self.streams.items():
            stream.set_seed(stream_seed(seed, name))

    def _build_stream(
        self, name: str, config: Mapping[str, Any], length: str | int
    ) -> ImageStreamSampler:
        if 'seed' in config:
            raise ValueError(
                f'stream {name!r} sets its own seed; set the seed of the '
                'sampler around it, which gives each stream one of its own'
            )
        kind = config.get('type')
        cls = DATA_SAMPLERS.get(kind) if isinstance(kind, str) else kind
        if not (isinstance(cls, type) and issubclass(cls, ImageStreamSampler)):
            raise ValueError(
                f'stream {name!r} must be a UniformSampler, a '
                'ClassAwareMultiLabelSampler or another ImageStreamSampler, '
                f'got {kind}'
            )
        config = dict(config)
        # 'class_max' of a tiny set can be 0, an error; with an int for the
        # length of the epoch it is not used.
        derived = config.get('num_samples', 'class_max') == 'class_max'
        if derived and isinstance(length, int):
            config['num_samples'] = length
        return DATA_SAMPLERS.build(
            config,
            default_args=dict(
                dataset=self.dataset, seed=stream_seed(self.seed, name)
            ),
        )


def stream_seed(seed: int, name: str) -> int:
    """Derives the seed of a named stream, 32 bits, from that of the run.

    Seeds of streams must be unrelated: with seed + 1 one stream would repeat
    what the other draws in its next epoch.
    """
    tag = zlib.crc32(name.encode())
    return int(np.random.SeedSequence((seed, tag)).generate_state(1)[0])
