"""A user's own folders of videos, by class and perhaps by split."""

from __future__ import annotations

from deepfake.data.layouts.folders import ClassFolders
from deepfake.data.manifest import VIDEO_SUFFIXES


class Videos(ClassFolders):
    """``{train,valid,test}/{real,fake}`` or ``{real,fake}``, in any case, with videos below."""

    name = "videos"
    summary = "{train,valid,test}/{real,fake} or {real,fake} with videos below"
    crops = False
    suffixes = VIDEO_SUFFIXES
