"""A user's own folders of images, by class and perhaps by split."""

from __future__ import annotations

from deepfake.data.layouts.folders import ClassFolders
from deepfake.data.manifest import IMAGE_SUFFIXES


class Images(ClassFolders):
    """``{train,valid,test}/{real,fake}`` or ``{real,fake}``, in any case, with images below."""

    name = "images"
    summary = "{train,valid,test}/{real,fake} or {real,fake} with images below"
    crops = True
    suffixes = IMAGE_SUFFIXES
