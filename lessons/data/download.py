"""Fetching data sets: `python -m lessons.data.download NAME [--root FOLDER]`.

A download shows its size, goes on where it was cut off, is verified, and takes its name only when it is complete.
An archive is unpacked beside its place and moved there in one step; nothing in it can write anywhere else.
"""

import argparse
import hashlib
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from lessons.data.files import ENVIRONMENT

CHUNK = 1 << 16
TIMEOUT = 30  # seconds without a byte


class DownloadError(OSError):
    """A download failed; the message says what to do in one sentence."""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from: archives (address, MD5 or None where none is published) unpacked into `folder`.

    by_hand: what to put where. around: folders inside the archives that are not part of the layout and are taken away.
    """

    folder: str
    archives: tuple[tuple[str, str | None], ...]
    by_hand: str
    around: str = ""


_VOC, _COCO = "https://thor.robots.ox.ac.uk/pascal/VOC", "http://images.cocodataset.org"
SOURCES = {
    "penn_fudan": Source(".", (("https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip", None),),
                         "PennFudanPed.zip, unpacked to PennFudanPed/"),
    "voc2007": Source(".", ((f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
                            (f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f")),
                      "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar, unpacked to VOCdevkit/VOC2007/"),
    "voc2012": Source(".", ((f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd"),),
                      "VOCtrainval_11-May-2012.tar, unpacked to VOCdevkit/VOC2012/"),
    "coco2017": Source("coco2017", ((f"{_COCO}/annotations/annotations_trainval2017.zip", None),
                                    (f"{_COCO}/annotations/panoptic_annotations_trainval2017.zip", None),
                                    (f"{_COCO}/zips/val2017.zip", None), (f"{_COCO}/zips/train2017.zip", None)),
                       "annotations_trainval2017.zip, panoptic_annotations_trainval2017.zip (and the archives in it), "
                       "val2017.zip and train2017.zip, unpacked to coco2017/"),
    "bccd": Source("bccd", (("https://github.com/Shenggan/BCCD_Dataset/archive/refs/heads/master.zip", None),),
                   "the repository Shenggan/BCCD_Dataset, its folder BCCD as bccd/BCCD/", around="BCCD_Dataset-master"),
    "nuclei": Source("nuclei/stage1_train", (("https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip", None),),
                     "stage1_train.zip of BBBC038 (the Data Science Bowl 2018), unpacked to nuclei/stage1_train/",
                     around="stage1_train"),
}


def download(url: str, path: str | Path, sha256: str | None = None, md5: str | None = None) -> Path:
    """Fetches `url` into `path`, which appears only when everything has come and fits its checksum.

    What has come before a break stays in PATH.part and is gone on with, if the server still has the same file. A wrong
    checksum deletes it. Raises DownloadError, with one sentence, for a dead link, no network or a wrong checksum.
    """
    path = Path(path)
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(url, part, tag)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{url} answers {error.code} {error.reason}: the link may be dead; fetch {path.name} "
                            f"by hand and put it at {path}.") from error
    except (OSError, EOFError, ValueError, HTTPException) as error:
        raise DownloadError(f"{url} cannot be reached or broke off ({error}); try again, it goes on where it stopped, "
                            f"or put {path.name} at {path} yourself.") from error
    verify(part, sha256, md5)
    os.replace(part, path)
    tag.unlink(missing_ok=True)
    return path


def _fetch(url: str, part: Path, tag: Path) -> None:
    """Brings `part` to its full length; `tag` remembers which version of the file it is a part of."""
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    with _ask(url, have, tag) as answer:
        if answer.status != 206:  # the server sends everything, from the beginning
            have = 0
            part.write_bytes(b"")  # before the tag changes: never old bytes under a new tag
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if version and not version.startswith("W/"):
            tag.write_text(version)
        else:
            tag.unlink(missing_ok=True)  # without an exact version nothing can be gone on with
        rest = answer.headers.get("Content-Length")
        _receive(answer, part, have, have + int(rest) if rest else None)


def _ask(url: str, have: int, tag: Path) -> HTTPResponse:
    """Opens `url` from byte `have` on if the file is still of the version in `tag`, else from the beginning."""
    headers = {"Range": f"bytes={have}-", "If-Range": tag.read_text()} if have else {}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        return _ask(url, 0, tag)  # nothing lies behind what is here, perhaps less: begin anew
    if answer.status == 206 and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
        answer.close()
        return _ask(url, 0, tag)  # another part than was asked for
    return answer


def _receive(answer: HTTPResponse, part: Path, have: int, total: int | None) -> None:
    """Appends what comes to `part`, of which there are `have` bytes. Raises EOFError if it ends before `total`."""
    print(f"{part.name.removesuffix('.part')} from {answer.url}: "
          f"{f'{total / 1e6:.1f} MB' if total else 'size unknown'}"
          f"{f', {have / 1e6:.1f} MB are here already' if have else ''}")
    with part.open("ab") as file, tqdm(total=total, initial=have, unit="B", unit_scale=True, file=sys.stdout,
                                       ascii=True, mininterval=1) as bar:
        while block := answer.read(CHUNK):
            file.write(block)
            bar.update(len(block))
    if total and part.stat().st_size < total:
        raise EOFError(f"{part.stat().st_size} of {total} bytes came")


def verify(path: Path, sha256: str | None = None, md5: str | None = None) -> None:
    """Compares a file with its checksum; without one, prints the SHA-256 found. Raises DownloadError and deletes it."""
    for algorithm, wanted in (("sha256", sha256), ("md5", md5)):
        if wanted:
            found = _digest(path, algorithm)
            if found != wanted.lower():
                path.unlink()
                raise DownloadError(f"{path.name} has the {algorithm} {found}, not {wanted}: it was damaged or changed "
                                    "on the way and has been deleted; try again.")
    if not sha256 and not md5:
        print(f"{path.name.removesuffix('.part')}: no checksum is published; its SHA-256 is {_digest(path, 'sha256')}")


def _digest(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def extract(archive: str | Path, folder: str | Path) -> Path:
    """Unpacks a .zip, .tar, .tar.gz or .tgz into `folder`, which appears, or is added to, only when all went well.

    Raises ValueError for a member that would leave the folder (an absolute path, "..", a link, a device) or a broken
    archive, and OSError when the disk is too small. Nothing is left behind then.
    """
    archive, folder = Path(archive), Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as temporary:
        target = Path(temporary) / "content"
        target.mkdir()
        try:
            if zipfile.is_zipfile(archive):
                _extract_zip(archive, target)
            else:
                _extract_tar(archive, target)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(f"{archive} is no complete archive ({error}); delete it and download it again.") from error
        _merge(target, folder)
    return folder


def _extract_zip(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for member in members:
            _refuse_outside(member.filename, archive)
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"{archive} holds {member.filename!r}, a link or a device; it is not unpacked.")
        _refuse_too_large(sum(member.file_size for member in members), target)
        file.extractall(target)


def _extract_tar(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as file:
        members = file.getmembers()
        for member in members:
            _refuse_outside(member.name, archive)
            if not (member.isfile() or member.isdir()):
                raise ValueError(f"{archive} holds {member.name!r}, a link or a device; it is not unpacked.")
            member.mode = 0o755 if member.isdir() else 0o644
        _refuse_too_large(sum(member.size for member in members), target)
        for member in members:  # one by one: `filter=` is not known to every Python that this runs on
            place = target / member.name
            if member.isdir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            content = file.extractfile(member)
            assert content is not None  # a plain file has content
            with content, place.open("wb") as out:
                shutil.copyfileobj(content, out)


def _refuse_outside(name: str, archive: Path) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts[0] if path.parts else ""):
        raise ValueError(f"{archive} holds {name!r}, which would be written outside its folder; it is not unpacked.")


def _refuse_too_large(size: int, target: Path) -> None:
    free = shutil.disk_usage(target).free
    if size > free:
        raise OSError(f"the archive unpacks to {size / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free.")


def _merge(source: Path, target: Path) -> None:
    """Moves a folder into place; where one stands already, its files are added or replaced one by one."""
    if not target.exists():
        os.replace(source, target)
        return
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            os.replace(path, place)


def fetch(name: str, root: str | Path) -> None:
    """Downloads and unpacks a data set of SOURCES into `root`. Raises ValueError for another name.

    The archives stay in root/archives, so that a set that was damaged can be unpacked again. Raises DownloadError.
    """
    if name not in SOURCES:
        raise ValueError(f"data set {name!r} is none of {', '.join(SOURCES)}.")
    source, root = SOURCES[name], Path(root).expanduser()
    folder = root / source.folder
    for url, md5 in source.archives:
        archive = root / "archives" / f"{name}-{url.rsplit('/', 1)[1]}"
        if not archive.exists():
            try:
                download(url, archive, md5=md5)
            except DownloadError as error:
                raise DownloadError(f"{error} What is wanted in {root}: {source.by_hand}.") from error
        extract(archive, folder)
    if source.around and (folder / source.around).is_dir():
        _merge(folder / source.around, folder)
        shutil.rmtree(folder / source.around)
    for inner in sorted(folder.glob("annotations/panoptic_*.zip")):  # COCO packs these PNG files twice
        extract(inner, inner.parent)
    print(f"{name} is in {folder}; set {ENVIRONMENT}={root} to use it.")


def main(arguments: list[str] | None = None) -> int:
    """The command line; one sentence and exit status 1 when it fails."""
    parser = argparse.ArgumentParser(prog="python -m lessons.data.download", description="Fetch a data set.")
    parser.add_argument("name", choices=sorted(SOURCES))
    parser.add_argument("--root", default=os.environ.get(ENVIRONMENT, "downloads"), help="folder that holds the sets")
    options = parser.parse_args(arguments)
    try:
        fetch(options.name, options.root)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
