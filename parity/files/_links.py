"""Where the files of a checkpoint may lie: none of them may lead out of its folder."""

from __future__ import annotations

import os


def homes(folder: str, model: str | None = None) -> list[str]:
    """The folders, without links, in which the bytes of a file of `folder` may lie: itself, or a downloader's store.

    Args:
        folder: where the file is named.
        model: the folder of the whole, of which `folder` is a part and no link; by default `folder`.
    """
    model = model or folder
    real = os.path.realpath(model)
    own = os.path.normpath(os.path.join(real, os.path.relpath(folder or ".", model or ".")))
    hub, snapshots, _ = os.path.join(os.path.dirname(real), "").rpartition(f"{os.sep}snapshots{os.sep}")
    # Snapshots are folders of links to the store beside them, which is no link itself.
    return [own, os.path.join(hub, "blobs")] if snapshots else [own]
