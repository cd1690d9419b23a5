"""The visitors' files, in a folder of this server's own: deleted after a time, on request and at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout
from PIL import Image

from epalm.demo import logs
from epalm.errors import EPALMError, reason


def claim(base: Path | None = None) -> Path:
    """A new folder for uploads, which Gradio uses from now on; what servers that are gone left is deleted.

    A server holds a lock while it lives, so a folder whose lock is free belongs to none.

    Raises:
        EPALMError: the folder cannot be made or written.
    """
    user = os.getuid() if hasattr(os, "getuid") else ""  # another user's folder could not be written
    base = base or Path(tempfile.gettempdir()) / f"epalm-uploads{user}"
    try:
        return _claim(base)
    except OSError as error:
        raise EPALMError(
            f"Uploads cannot be kept in {base}, so choose another folder with --uploads ({reason(error)})."
        ) from None


def _claim(base: Path) -> Path:
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    for lock_file in base.glob("*.lock"):
        lock = FileLock(lock_file)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        shutil.rmtree(lock_file.with_suffix(""), ignore_errors=True)
        lock.release()
        lock_file.unlink(missing_ok=True)
    folder = Path(tempfile.mkdtemp(dir=base))
    lock = FileLock(folder.with_suffix(".lock"))
    lock.acquire()
    folder.mkdir(mode=0o700, exist_ok=True)  # a server that starts just now may have found the lock free
    _HELD.append(lock)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


_HELD: list[FileLock] = []  # released when the process ends, however it does


class Uploads:
    """Deletes what is old, and what a visitor wants deleted.

    Gradio names the folder of an upload by its content, so two visitors with the same file share it; it is
    deleted on request only when nobody else used it.

    Args:
        folder: where Gradio puts uploads.
        kept: seconds that a file is kept.
        deleted: told how many files were deleted.
    """

    def __init__(self, folder: Path, kept: float, deleted: Callable[[int], None] = lambda count: None):
        self.folder, self.kept, self.deleted = folder.resolve(), kept, deleted
        self.users: dict[Path, set[str]] = {}  # file -> the visits that used it
        self.lock = threading.Lock()
        self.stopped = threading.Event()

    def use(self, path: Path, visit: str) -> None:
        """Remember that a visit used a file."""
        if self._is_upload(path):
            with self.lock:
                self.users.setdefault(path.resolve(), set()).add(visit)

    def save(self, image: Image.Image, visit: str) -> str:
        """Put a picture that was made of a visit's file beside it, to be deleted with it; its path."""
        path = Path(tempfile.mkdtemp(dir=self.folder)) / "made.png"
        image.save(path)
        self.use(path, visit)
        return str(path)

    def forget(self, visit: str) -> int:
        """Delete the files of a visit that no other visit used; the number of files."""
        with self.lock:
            mine = [path for path, visits in self.users.items() if visit in visits]
            alone = [path for path in mine if self.users[path] == {visit}]
            for path in mine:
                self.users[path].discard(visit)
            for path in alone:
                del self.users[path]
        count = sum([self._delete(path) for path in alone])
        self.deleted(count)
        return count

    def purge(self, age: float | None = None) -> int:
        """Delete all files and empty folders that are older than `age` (normally `kept`) seconds.

        Returns:
            The number of files.
        """
        latest = time.time() - (self.kept if age is None else age)
        count = 0
        # os.walk passes over a folder that another request deletes meanwhile; Path.rglob would raise. Which
        # folders are old is settled before anything is deleted, as that renews the folder where it was.
        walk = os.walk(self.folder, topdown=False)
        tree = [(Path(here), _older(Path(here), latest), folders, names) for here, folders, names in walk]
        for here, old, folders, names in tree:
            links = [name for name in folders if (here / name).is_symlink()]
            for path in [here / name for name in names + links]:
                if _older(path, latest) and self._delete(path):
                    with self.lock:
                        self.users.pop(path, None)
                    count += 1
            if old and here != self.folder:
                with suppress(OSError):  # something is in it
                    here.rmdir()
        self.deleted(count)
        return count

    def keep_purging(self) -> None:
        """Purge from now on in the background, until `stop`."""

        def work() -> None:
            while not self.stopped.wait(min(60.0, self.kept / 4)):
                self.purge()

        threading.Thread(target=work, name="purge", daemon=True).start()

    def stop(self) -> None:
        """End the background purge and delete everything."""
        self.stopped.set()
        self.purge(age=0)

    def _is_upload(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.folder)

    def _delete(self, path: Path) -> bool:
        """Delete a file, and the folders that are empty without it; False if it cannot be."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:  # the others are deleted all the same
            logs.event("upload not deleted", "warning", type=type(error).__name__)
            return False
        parent = path.parent
        while parent != self.folder and self._is_upload(parent):
            try:
                parent.rmdir()
            except OSError:  # another file is in it
                break
            parent = parent.parent
        return True


def _older(path: Path, latest: float) -> bool:
    """Whether a path is there, and was put there, or a folder last changed, by then."""
    try:
        return path.lstat().st_ctime <= latest
    except OSError:
        return False
