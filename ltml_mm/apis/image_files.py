"""Finds image files in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from ltml_mm.datasets.images import EXTENSIONS, UnreadableImageError


def find_images(
    folder: str | Path, leave_out: str | Path | None = None
) -> tuple[list[Path], list[UnreadableImageError]]:
    """Lists the images of a folder and of the folders in it.

    A file is an image by its extension, one of
    :data:`~ltml_mm.datasets.images.EXTENSIONS`. Nothing outside the folder is
    touched: links that point out of it are not followed, nor are links to
    folders within, whose files are found anyway.

    Args:
        folder: The folder.
        leave_out: A folder in it that is passed over.

    Returns:
        tuple: The images, sorted by path; and an error for each link that
        points out, each image name that is no regular file, and each folder
        that cannot be listed.
    """
    root = os.path.realpath(folder)
    passed_over = None if leave_out is None else os.path.realpath(leave_out)
    images: list[Path] = []
    skipped: list[UnreadableImageError] = []
    # Not os.walk, which recurses: a folder may be thousands of levels deep.
    pending = [str(folder)]
    while pending:
        place = pending.pop()
        if os.path.realpath(place) == passed_over:
            continue
        try:
            with os.scandir(place) as listing:
                entries = list(listing)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            skipped.append(UnreadableImageError(place, reason))
            continue
        for entry in entries:
            is_image = entry.name.lower().endswith(EXTENSIONS)
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif entry.is_symlink() and _points_out(entry, root):
                if is_image or os.path.isdir(entry.path):
                    reason = 'a link that points out of the folder'
                    skipped.append(UnreadableImageError(entry.path, reason))
            elif is_image and not os.path.isdir(entry.path):
                if os.path.isfile(entry.path):
                    images.append(Path(entry.path))
                else:
                    skipped.append(
                        UnreadableImageError(entry.path, 'not a regular file')
                    )
    return sorted(images), sorted(skipped, key=lambda error: error.path)


def _points_out(entry: os.DirEntry, root: str) -> bool:
    target = os.path.realpath(entry.path)
    return os.path.commonpath([root, target]) != root
