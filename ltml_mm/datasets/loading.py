"""Loads images, or says which file cannot be loaded and why."""

from __future__ import annotations

from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS

from ltml_mm.datasets.image_checks import (
    UnreadableImageError,
    check_image,
    first_line,
)


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """MMCV's ``LoadImageFromFile`` with one error for all that can go wrong.

    The stock transform decodes the upper part of a truncated JPEG as if it
    were the image, takes any amount of memory for a few bytes that ask for
    it, and fails in as many ways as there are faults, some of which do not
    name the file. Here a local file that is missing, empty, truncated, no
    image or larger than
    :data:`~ltml_mm.datasets.image_checks.MAX_PIXELS` is refused before it is
    decoded. No image is ever passed over: ``ignore_empty`` has no effect.

    Required key: ``img_path``. Added keys: ``img``, BGR uint8 (H, W, 3),
    rotated as EXIF says; ``img_shape`` and ``ori_shape``.

    Args:
        *args: The arguments of ``LoadImageFromFile``.
        **kwargs: Likewise.

    Raises:
        UnreadableImageError: The file cannot be used; names it and says why.
    """

    def transform(self, results: dict) -> dict:
        """Loads ``results['img_path']``."""
        path = results['img_path']
        if self.backend_args is None and '://' not in path:
            check_image(path, decode=False)
        try:
            loaded = super().transform(results)
        # A decoder meets broken content with errors of every kind.
        except Exception as error:
            raise UnreadableImageError(path, first_line(error)) from error
        if loaded is None:
            raise UnreadableImageError(path, 'cannot be decoded')
        return loaded
