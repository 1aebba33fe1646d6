"""An entry of the table on this disk: its files downloaded or put there by hand, verified, unpacked.

FOLDER/<name>/<files>    FOLDER/<name>/unpacked/...    FOLDER/<name>/converted/<part>/: checkpoints
"""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path

from t2p.hub.download import Client, Unreachable, download, verify
from t2p.hub.table import Entry, File
from t2p.io import PathLike, UserError, cache_folder

UNPACKED, CONVERTED = "unpacked", "converted"


def entry_folder(entry: Entry, folder: PathLike | None = None) -> Path:
    return Path(folder or cache_folder()).expanduser().absolute() / entry.name


def missing(entry: Entry, folder: PathLike | None = None) -> list[File]:
    """The files that are not there yet; [] where they were unpacked."""
    place = entry_folder(entry, folder)
    return [] if (place / UNPACKED).is_dir() else [f for f in entry.files if not (place / f.name).exists()]


def fetch(entry: Entry, folder: PathLike | None = None, client: Client | None = None) -> Path:
    """Gets what is missing, verifies all files, unpacks archives; -> the entry's folder.

    Raises UserError, which says what to put where, for what only a browser can get and for what the network does not
    give; where files were put by hand, it works from them."""
    place = entry_folder(entry, folder)
    absent = missing(entry, folder)
    if any(not f.url for f in absent) or not (entry.files or (place.is_dir() and any(place.iterdir()))):
        raise UserError(by_hand(entry, place, absent))
    for file in absent:
        try:
            download(file, place / file.name, client or Client())
        except Unreachable as e:
            raise UserError(f"{e}.\n{by_hand(entry, place, missing(entry, folder))}") from e
    for file in entry.files:
        if file not in absent and (place / file.name).exists():
            verify(place / file.name, file)
    if entry.unpack and not (place / UNPACKED).is_dir():
        unpack([place / f.name for f in entry.files], place / UNPACKED)
    return place


def by_hand(entry: Entry, place: Path, absent: list[File]) -> str:
    """What to download and where to put it, in words."""
    todo = [
        f"  download {f.url or f'{f.name} from {entry.page} in a browser'}\n  to       {place / f.name}" for f in absent
    ]
    todo = todo or [f"  download the files of {entry.page} in a browser\n  to       {place}/"]
    return "\n".join(
        [f"{entry.name} by hand:", *todo, "and give the same command again: it works from what lies there."]
    )


def unpack(archives: list[Path], target: Path) -> None:
    """Zip archives -> the folder `target`, which appears whole or not at all. UserError for an archive that is damaged,
    has no room, or holds names outside of itself, links or other special files; nothing of it stays."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for path in archives:
            _unpack(path, partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpack(path: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for member in members:
                _check_member(path, member, target)
            size = sum(m.file_size for m in members)
            if size > shutil.disk_usage(path.parent).free:
                raise UserError(f"{path.parent} has no room to unpack {path.name}: {size:,} bytes")
            archive.extractall(target)
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as e:
        raise UserError(f"{path} cannot be unpacked ({e}); remove it and get it again") from e


def _check_member(path: Path, member: zipfile.ZipInfo, target: Path) -> None:
    """Only folders and plain files below the target; their mode is the upper half of external_attr, 0 if unknown."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    inside = (target / member.filename).resolve().is_relative_to(target.resolve())
    if not inside or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{path} is refused: its member {member.filename!r} is not a file below the archive's folder")


def weights(entry: Entry, place: Path) -> dict[str, Path]:
    """{part: file} of what `t2p convert` turns into checkpoints, by the name of the folder that each lies in."""
    found = sorted(place.glob(entry.convert.pattern)) if entry.convert else []
    if entry.convert and not found:
        raise UserError(f"{place} holds no {entry.convert.pattern}: was it packed another way? Convert it by hand, by "
                        f"`t2p convert --from {entry.convert.model} FILE --out DIR`")  # fmt: skip
    return {file.parent.name: file for file in found}
