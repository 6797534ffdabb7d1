"""Write beside, then rename: a preset on the disk is the old or the new one, never half of one."""

from __future__ import annotations

import contextlib
import filecmp
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

# Written when the save ends and read by nobody who computes: it may change on its own.
_INDEPENDENT = {"metadata.json", "README.md"}


@contextlib.contextmanager
def staged_directory(
    directory: str | os.PathLike, *, marker: str, stale: tuple[str, ...] = ()
) -> Iterator[Path]:
    """A folder to write a preset into; it becomes `directory` when the block ends.

    A directory that does not exist yet appears complete, by one rename. In one that exists, the
    files written replace those of the same name and every other file stays. If more than one
    file changes, `marker` is taken away first and put back last, so that a reader who comes
    between, or after a crash, finds no preset rather than a mixture. If the block or a rename
    fails, the directory is as it was before.

    Args:
        directory: where the preset goes. Missing parents are made.
        marker: the file without which the directory is no preset, such as `config.json`.
        stale: patterns of earlier files that would contradict the new ones; those not written
            anew are removed, such as `model_*.weights.h5` where one weight file is written.

    Raises:
        ValueError: `directory` is empty.
        NotADirectoryError: `directory` is a file.
        OSError: the disk is full, or not writable.
    """
    if not os.fspath(directory):
        raise ValueError(
            "the directory to write into must have a name. Received: an empty one.\n"
            "hint: '.' is the current directory"
        )
    # A link is followed, so that it stays a link and its target is what changes.
    target = Path(directory).expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"`{directory}` is a file; a preset needs a directory.")
    target.parent.mkdir(parents=True, exist_ok=True)
    existed = target.is_dir()
    # Inside a directory that exists: the same disk for certain, even where it is a mount point.
    parent, name = (target, ".saving") if existed else (target.parent, f".{target.name}.saving")
    folder = parent / f"{name}-{secrets.token_hex(6)}"
    folder.mkdir()
    try:
        yield folder
        _flush_tree(folder)
        if existed or not _rename_whole(folder, target):
            _move_in(folder, target, marker, stale)
        _flush(target)
        _flush(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def staged_file(path: str | os.PathLike) -> Iterator[Path]:
    """A path to write one file to; it becomes `path` when the block ends without an exception."""
    target = Path(path).expanduser().resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.saving-{secrets.token_hex(6)}")
    try:
        yield beside
        _flush(beside)
        beside.replace(target)
        _flush(target.parent)
    finally:
        beside.unlink(missing_ok=True)


def unfinished(directory: Path) -> Path | None:
    """What an interrupted save left in `directory`, if anything."""
    return next(iter(sorted(directory.glob(".saving-*"))), None)


def _rename_whole(folder: Path, target: Path) -> bool:
    """Give the folder its final name. False where somebody made that directory meanwhile."""
    try:
        folder.rename(target)
    except OSError:
        if target.is_dir():
            return False
        raise
    return True


def _move_in(folder: Path, target: Path, marker: str, stale: tuple[str, ...]) -> None:
    """Move the files of `folder` into `target`, which exists; undo everything on an error."""
    written = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    changed = [name for name in written if not _same(folder / name, target / name)]
    found = {path.relative_to(target) for pattern in stale for path in target.glob(pattern)}
    removed = sorted(found - set(written))
    together = {str(name) for name in (*changed, *removed)} - _INDEPENDENT
    # One rename needs no guard, so saving the same model again and again never lacks its marker.
    guarded = len(together) > 1 and (target / marker).exists()

    swap = _Swap(target, kept=folder / ".kept")
    try:
        if guarded:
            swap.take_away(Path(marker))
        for name in removed:
            swap.take_away(name)
        for name in changed:
            if name != Path(marker):
                swap.put(folder / name, name)
        if Path(marker) in changed:
            swap.put(folder / marker, Path(marker))
        elif guarded:
            swap.put(folder / ".kept" / marker, Path(marker))
    except BaseException:
        swap.undo()
        raise


class _Swap:
    """Renames in `target` that can be undone, because what was there is kept in `kept`."""

    def __init__(self, target: Path, kept: Path) -> None:
        self.target = target
        self.kept = kept
        self.old: list[Path] = []
        self.created: list[Path] = []

    def take_away(self, name: Path) -> None:
        """Move `target/name` to `kept`."""
        self._keep(name)
        (self.target / name).replace(self.kept / name)

    def put(self, source: Path, name: Path) -> None:
        """Move `source` to `target/name`, in one step also where a file is there."""
        destination = self.target / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        if destination.exists():
            self._keep(name)
            try:
                os.link(destination, self.kept / name)
            except OSError:  # A file system without hard links.
                shutil.copy2(destination, self.kept / name)
        elif name not in self.old:
            self.created.append(name)
        source.replace(destination)

    def undo(self) -> None:
        """Bring back what was there. A second error must not hide the first."""
        for name in self.old:
            # Absent where the interruption came before it was kept: then it is still in place.
            with contextlib.suppress(OSError):
                (self.kept / name).replace(self.target / name)
        for name in self.created:
            with contextlib.suppress(OSError):
                (self.target / name).unlink()

    def _keep(self, name: Path) -> None:
        # Noted before it is done, so that an interruption between the two is undone as well.
        (self.kept / name).parent.mkdir(parents=True, exist_ok=True)
        self.old.append(name)


def _same(left: Path, right: Path) -> bool:
    """Do both files exist with the same bytes?"""
    return right.is_file() and filecmp.cmp(left, right, shallow=False)


def _flush_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _flush(path)


def _flush(path: Path) -> None:
    """Have the system put a file or a directory on the disk, where it can."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no directories.
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        # Some file systems (network, FUSE) refuse this for directories; the rename still holds.
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(handle)
    finally:
        os.close(handle)
