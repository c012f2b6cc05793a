"""Images that clients send once and ask about several times, as 3D Slicer does; they expire like results."""

import secrets
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

MAX_IMAGES = 32
"""Images that are kept; the oldest go first."""


@dataclass(frozen=True)
class StoredImage:
    """One image."""

    id: str
    """Name by which the client asks for it: its own, or a random one. It is no part of a path."""
    folder: Path
    files: tuple[Path, ...]
    created: float
    """Seconds since 1970."""
    is_session: bool
    """Whether the server chose the name; such images are not listed."""


class StoredImages:
    """All stored images. Methods may be called from any thread."""

    def __init__(self, folder: Path, keep_seconds: float) -> None:
        self._folder, self._keep_seconds = folder, keep_seconds
        self._lock = threading.Lock()
        self._images: dict[str, StoredImage] = {}

    def make_folder(self) -> Path:
        """A new folder for the files of one image."""
        folder = self._folder / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        return folder

    def add(self, files: tuple[Path, ...], identifier: str | None = None) -> StoredImage:
        """Keep an image whose files lie in a folder that `make_folder` made.

        Args:
            files: Its files.
            identifier: The client's own name for it, which replaces an earlier image of that name; None: a random one.
        """
        name = secrets.token_hex(16) if identifier is None else identifier
        image = StoredImage(name, files[0].parent, files, time.time(), identifier is None)
        with self._lock:
            earlier = self._images.pop(image.id, None)
            self._images[image.id] = image
            excess = list(self._images.values())[: max(0, len(self._images) - MAX_IMAGES)]
        for old in (*([earlier] if earlier else []), *excess):
            self._forget(old)
        self.expire()
        return image

    def find(self, identifier: str) -> StoredImage | None:
        """The image of this name; None if there is none, or it has expired."""
        self.expire()
        return self._images.get(identifier)

    def listed(self) -> list[StoredImage]:
        """Images that clients named."""
        self.expire()
        with self._lock:
            return [image for image in self._images.values() if not image.is_session]

    def remove(self, identifier: str) -> StoredImage | None:
        """Forget an image and remove its files; None if there is none of this name."""
        image = self._images.get(identifier)
        if image is not None:
            self._forget(image)
        return image

    def expire(self) -> None:
        """Forget what is too old."""
        with self._lock:
            old = [image for image in self._images.values() if time.time() - image.created > self._keep_seconds]
        for image in old:
            self._forget(image)

    def _forget(self, image: StoredImage) -> None:
        with self._lock:
            if self._images.get(image.id) is image:
                del self._images[image.id]
        shutil.rmtree(image.folder, ignore_errors=True)
