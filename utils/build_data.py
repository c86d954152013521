"""Makes the embedded pictures from their sources: `python -m utils.build_data`.

Reads data/sources/cutouts.csv and data/sources/backgrounds.csv (curated by hand), fetches the Debian packages named
there with `apt-get download` (no root needed), takes scikit-image's textures from its wheel, and writes data/cutouts/,
data/backgrounds/, data/CREDITS.csv and data/LICENSE. Running it twice gives the same bytes (with the same Pillow).
A reader never needs it: its output is part of the repository.
"""

import argparse
import csv
import io
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata, resources
from pathlib import Path

from PIL import Image

from utils.build_pictures import BACKGROUND_SIDE, CUTOUT_SIDE, cut_out, embedded_images, shrink, webp, without_bars

DATA = Path(__file__).resolve().parents[1] / "data"
TEXTURES = "scikit-image"  # the one source that is a Python package
GPL = Path("/usr/share/common-licenses/GPL-2")
COLUMNS = ("file", "role", "split", "group", "stuff", "package", "version", "path", "author", "licence", "evidence",
           "change")
Row = dict[str, str]


def read_rows(path: Path) -> list[Row]:
    """The rows of one curated list, in the order of their file names. Raises ValueError when a column is missing."""
    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    for column in ("file", "split", "package", "path", "author", "licence"):
        if not rows or any(not row.get(column) for row in rows):
            raise ValueError(f"{path.name} needs a value in column {column!r} of every row.")
    return sorted(rows, key=lambda row: row["file"])


def fetch_packages(names: set[str], folder: Path) -> dict[str, str]:
    """Downloads Debian packages and unpacks each into folder/NAME; returns their versions.

    Raises RuntimeError in one sentence where apt-get or dpkg-deb is absent or a download fails.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"{tool} was not found: the pictures are built on Debian or Ubuntu; "
                               "elsewhere use the files in data/ as they are.")
    folder.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", "-q", *sorted(names)], folder)
    versions = {}
    for archive in sorted(folder.glob("*.deb")):
        name = archive.name.split("_")[0]
        _run(["dpkg-deb", "-x", archive.name, name], folder)
        versions[name] = _run(["dpkg-deb", "-f", archive.name, "Version"], folder).strip()
    missing = names - versions.keys()
    if missing:
        raise RuntimeError(f"apt-get download brought no package {', '.join(sorted(missing))}.")
    return versions


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"`{' '.join(command)}` failed ({reason}); check the network and run `apt-get update`.")
    return done.stdout


def open_source(row: Row, folder: Path) -> Image.Image:
    """The source photograph of a row.

    A path `file.rcc#007` means the eighth picture inside a Qt resource file, and of it the left half: those pictures
    hold two frames of an animation side by side.
    """
    if row["package"] == TEXTURES:
        return Image.open(io.BytesIO(resources.files("skimage").joinpath(row["path"]).read_bytes()))
    path, _, number = row["path"].partition("#")
    data = (folder / row["package"] / path).read_bytes()
    if not number:
        return Image.open(io.BytesIO(data))
    frames = Image.open(io.BytesIO(list(embedded_images(data))[int(number)]))
    return frames.crop((0, 0, frames.width // 2, frames.height))


def make_cutout(row: Row, folder: Path) -> tuple[Image.Image, str]:
    """The finished cutout of a row and the description of what was changed."""
    source = open_source(row, folder)
    made = cut_out(source)
    return made, f"cut to its outline, edge mended, resized, {_sizes(source, made)}"


def make_background(row: Row, folder: Path) -> tuple[Image.Image, str]:
    """The finished background of a row and the description of what was changed."""
    source = open_source(row, folder).convert("RGB")
    made = shrink(without_bars(source), BACKGROUND_SIDE, min)
    return made, f"resized, {_sizes(source, made)}"


def _sizes(source: Image.Image, made: Image.Image) -> str:
    return f"{source.size[0]}x{source.size[1]} to {made.size[0]}x{made.size[1]}"


def write(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all: to a neighbour first, which then takes its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(data)
    os.replace(partial, path)


def build(folder: Path, data: Path = DATA) -> list[Row]:
    """Builds everything below `data` from packages fetched into `folder`; returns the rows of CREDITS.csv."""
    cutouts = read_rows(data / "sources" / "cutouts.csv")
    backgrounds = [row | {"role": "background"} for row in read_rows(data / "sources" / "backgrounds.csv")]
    names = {row["package"] for row in cutouts + backgrounds} - {TEXTURES}
    versions = fetch_packages(names, folder) | {TEXTURES: metadata.version(TEXTURES)}
    credits = []
    for kind, rows, make in (("cutouts", cutouts, make_cutout), ("backgrounds", backgrounds, make_background)):
        for row in rows:
            picture, change = make(row, folder)
            write(data / kind / row["file"], webp(picture))
            credits.append(row | {"file": f"{kind}/{row['file']}", "version": versions[row["package"]],
                                  "change": f"{change}; WebP"})
        _remove_others(data / kind, {row["file"] for row in rows})
    write(data / "CREDITS.csv", _as_csv(credits))
    write(data / "LICENSE", _licence(data).encode())
    return credits


def _remove_others(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def _as_csv(rows: list[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _licence(data: Path) -> str:
    return (data / "sources" / "licence_preamble.txt").read_text(encoding="utf-8") + "\n" + GPL.read_text("utf-8")


def main() -> None:
    """Command line: `python -m utils.build_data [--keep FOLDER]`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="keep the downloaded packages in this folder")
    folder = parser.parse_args().keep
    try:
        with tempfile.TemporaryDirectory() as temporary:
            rows = build(folder or Path(temporary))
    except (RuntimeError, OSError, ValueError) as error:
        sys.exit(f"build_data: {error}")
    print(f"{len(rows)} pictures of at most {CUTOUT_SIDE} px (objects) and {BACKGROUND_SIDE} px (backgrounds) written.")


if __name__ == "__main__":
    main()
