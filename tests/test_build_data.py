"""The embedded pictures as they are committed, and the tool that makes them from their sources."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils import build_data, build_pictures

DATA = build_data.DATA
SHARED = DATA.parents[1] / "shared" / "scenes"


def credits() -> list[dict[str, str]]:
    with (DATA / "CREDITS.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def picture_files() -> list[Path]:
    return [path for kind in ("cutouts", "backgrounds") for path in sorted((DATA / kind).iterdir())]


# ---- what is committed -------------------------------------------------------------------------------------------


def test_credits_list_every_picture_and_nothing_more():
    assert sorted(row["file"] for row in credits()) == sorted(str(p.relative_to(DATA)) for p in picture_files())
    assert len(credits()) == 207 + 28


@pytest.mark.parametrize("column", ["role", "split", "package", "version", "path", "author", "licence", "change"])
def test_credits_leave_nothing_open(column):
    assert [row["file"] for row in credits() if not row[column].strip()] == []


def test_credits_agree_with_the_curated_lists():
    for name, kind in (("cutouts.csv", "cutouts"), ("backgrounds.csv", "backgrounds")):
        for row in build_data.read_rows(DATA / "sources" / name):
            (found,) = [c for c in credits() if c["file"] == f"{kind}/{row['file']}"]
            assert {key: found[key] for key in row if key != "file"} == {key: row[key] for key in row if key != "file"}


def test_only_licences_that_the_licence_file_explains():
    text = (DATA / "LICENSE").read_text(encoding="utf-8")
    licences = {row["licence"] for row in credits()}
    assert licences == {"GPL-2.0-or-later", "CC-BY-4.0", "CC0-1.0", "public domain"}
    assert all(licence in text for licence in licences)
    assert "GNU GENERAL PUBLIC LICENSE" in text
    assert "Version 2, June 1991" in text


def test_the_pictures_are_small():
    assert sum(path.stat().st_size for path in picture_files()) <= 3_000_000


@pytest.mark.parametrize("path", picture_files(), ids=lambda path: path.stem)
def test_every_picture_opens_and_keeps_the_limits(path):
    with Image.open(path) as picture:
        assert picture.format == "WEBP"
        if path.parent.name == "backgrounds":
            assert picture.mode == "RGB"
            assert min(picture.size) <= build_pictures.BACKGROUND_SIDE
            assert np.asarray(picture.convert("L")).mean(1).min() > 8, "a black letterbox bar"
            return
        assert picture.mode == "RGBA"
        assert max(picture.size) <= build_pictures.CUTOUT_SIDE
        alpha = np.asarray(picture)[..., 3]
    assert (alpha >= 128).mean() > 0.08, "hardly anything of the object is there"
    for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]):
        assert edge.any(), "an empty margin"


def test_near_duplicates_stay_in_one_split():
    splits: dict[tuple[str, str], set[str]] = {}
    for row in credits():
        if row["role"] != "background":
            assert row["group"]
            splits.setdefault((row["role"], row["group"]), set()).add(row["split"])
    assert [group for group, found in splits.items() if len(found) > 1] == []


def test_every_role_has_pictures_in_every_split():
    held = {(row["role"], row["split"]) for row in credits()}
    roles = ("bird", "fish", "hoofed", "furry", "produce", "vehicle", "distractor", "background")
    assert held == {(role, split) for role in roles for split in ("train", "val", "test")}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the lists this collection was curated from are not here")
def test_objects_and_splits_are_those_of_the_original_lists():
    with (SHARED / "cutouts.csv").open(newline="", encoding="utf-8") as handle:
        theirs = {f"{r['class']}_{Path(r['path_in_source']).stem}.webp": r for r in csv.DictReader(handle)}
    ours = {row["file"]: row for row in build_data.read_rows(DATA / "sources" / "cutouts.csv")}
    assert ours.keys() == theirs.keys()
    for file, row in ours.items():
        assert row["role"] == theirs[file]["class"]
        if row["role"] != "distractor":  # those were all in train; here each split has its own
            assert (row["split"], row["group"]) == (theirs[file]["split"], theirs[file]["group"])


# ---- cutting and shrinking ---------------------------------------------------------------------------------------


def disc(size: int = 80, radius: int = 20, backdrop: int = 255) -> np.ndarray:
    """A red disc whose outermost ring has the backdrop's colour and whose edge is a staircase."""
    y, x = np.mgrid[:size, :size] - size // 2
    distance = np.hypot(x, y)
    rgba = np.full((size, size, 4), backdrop, np.uint8)
    rgba[distance < radius - 1] = (200, 30, 20, 255)
    rgba[..., 3] = np.where(distance < radius, 255, 0)
    return rgba


def test_cut_out_crops_to_the_object_and_never_enlarges():
    made = build_pictures.cut_out(Image.fromarray(disc()))
    assert made.mode == "RGBA"
    assert 39 <= made.size[0] <= 43
    assert made.size[0] == made.size[1]


def test_cut_out_shrinks_to_the_limit():
    assert max(build_pictures.cut_out(Image.fromarray(disc(500, 240))).size) == build_pictures.CUTOUT_SIDE


def test_cut_out_leaves_no_rim_of_the_backdrop():
    made = np.asarray(build_pictures.cut_out(Image.fromarray(disc()))).astype(int)
    visible = made[made[..., 3] > 0]
    assert visible[:, 1].max() < 60  # the white rim had green 255
    assert len(np.unique(visible[:, 3])) > 2  # and the staircase is smooth


def test_cut_out_keeps_a_dark_rim_and_thin_parts():
    rgba = disc(backdrop=0)
    rgba[5:40, 40] = (250, 250, 250, 255)  # an antenna, one pixel wide
    made = np.asarray(build_pictures.cut_out(Image.fromarray(rgba))).astype(int)
    assert made[2:10, :, 1][made[2:10, :, 3] > 100].min() > 200
    assert (made[..., 0][made[..., 3] > 200] < 30).any()


def test_cut_out_drops_specks_and_haze_but_keeps_large_parts():
    rgba = disc()
    rgba[2:4, 2:4] = (0, 0, 255, 255)  # a speck
    rgba[..., 3] = np.maximum(rgba[..., 3], 9)  # a haze over everything
    rgba[40:60, 70:76] = (0, 200, 0, 255)  # a second part
    assert build_pictures.cut_out(Image.fromarray(rgba)).size[0] in range(55, 60)
    assert build_pictures.cut_out(Image.fromarray(rgba)).size[1] in range(39, 44)


def test_cut_out_of_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"\(30, 20\) has no opaque pixel"):
        build_pictures.cut_out(Image.new("RGBA", (30, 20), (255, 255, 255, 0)))


def test_without_bars():
    picture = Image.new("RGB", (60, 40))
    picture.paste((90, 120, 60), (5, 4, 60, 36))
    assert build_pictures.without_bars(picture).size == (55, 32)


@pytest.mark.parametrize(("size", "measure", "expected"), [
    ((640, 320), max, (192, 96)), ((640, 400), min, (307, 192)), ((100, 50), max, (100, 50)),
    ((4000, 3), max, (192, 1)),
])
def test_shrink(size, measure, expected):
    assert build_pictures.shrink(Image.new("RGB", size), 192, measure).size == expected


def test_embedded_images_are_found_in_order():
    files = []
    for kind, size in (("PNG", (3, 4)), ("WEBP", (5, 6)), ("PNG", (7, 8))):
        buffer = io.BytesIO()
        Image.new("RGBA", size, (10, 20, 30, 255)).save(buffer, kind)
        files.append(buffer.getvalue())
    blob = b"qres\0RIFFWEBP" + files[0] + b"\0\0names\x89PNG" + files[1] + files[2] + b"tail"
    found = list(build_pictures.embedded_images(blob))
    assert [Image.open(io.BytesIO(data)).size for data in found] == [(3, 4), (5, 6), (7, 8)]
    assert list(build_pictures.embedded_images(b"")) == []


# ---- the command -------------------------------------------------------------------------------------------------


def small_source(folder: Path) -> Path:
    """A data folder with one object, one fish of two frames and one background in its lists, and their package."""
    package = folder / "debs" / "pack"
    package.mkdir(parents=True)
    Image.fromarray(disc()).save(package / "disc.png")
    Image.new("RGB", (800, 600), (90, 120, 60)).save(package / "meadow.jpg")
    frames = np.concatenate([disc(), np.zeros_like(disc())], axis=1)
    buffer = io.BytesIO()
    Image.fromarray(frames).save(buffer, "PNG")
    (package / "two.rcc").write_bytes(b"qres" + buffer.getvalue())
    data = folder / "data"
    (data / "sources").mkdir(parents=True)
    (data / "sources" / "licence_preamble.txt").write_text("Pictures by many people.\n")
    (data / "sources" / "cutouts.csv").write_text(
        "file,role,split,group,package,path,author,licence,evidence\n"
        "fish_two.webp,fish,val,two,pack,two.rcc#000,B,public domain,a\n"
        "bird_disc.webp,bird,train,disc,pack,disc.png,A,CC0-1.0,b\n")
    (data / "sources" / "backgrounds.csv").write_text(
        "file,split,stuff,package,path,author,licence,evidence\n"
        "brick.webp,test,wall to 1,scikit-image,data/brick.png,C,CC0-1.0,c\n"
        "meadow.webp,train,grass to 1,pack,meadow.jpg,C,CC0-1.0,c\n")
    return data


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def built(tmp_path, monkeypatch):
    data = small_source(tmp_path)
    (tmp_path / "gpl").write_text("GNU GENERAL PUBLIC LICENSE\n")
    monkeypatch.setattr(build_data, "GPL", tmp_path / "gpl")
    monkeypatch.setattr(build_data, "fetch_packages", lambda names, folder: dict.fromkeys(names, "1.0-1"))
    rows = build_data.build(tmp_path / "debs", data)
    return tmp_path, data, rows


def test_build_writes_pictures_credits_and_licence(built):
    _, data, rows = built
    assert [row["file"] for row in rows] == ["cutouts/bird_disc.webp", "cutouts/fish_two.webp",
                                             "backgrounds/brick.webp", "backgrounds/meadow.webp"]
    with Image.open(data / "backgrounds" / "meadow.webp") as picture:
        assert picture.size == (427, 320)
    with Image.open(data / "cutouts" / "fish_two.webp") as picture:
        assert picture.size[0] == picture.size[1]  # one frame, not two
    text = (data / "CREDITS.csv").read_text()
    assert "backgrounds/meadow.webp,background,train,,grass to 1,pack,1.0-1,meadow.jpg,C,CC0-1.0,c," in text
    assert (data / "LICENSE").read_text().startswith("Pictures by many people.")


def test_build_twice_gives_the_same_bytes_and_removes_what_is_no_longer_listed(built):
    folder, data, _ = built
    before = everything(data)
    (data / "cutouts" / "old.webp").write_bytes(b"old")
    build_data.build(folder / "debs", data)
    assert everything(data) == before
    assert not list(data.rglob("*.part"))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    monkeypatch.setattr(build_data.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        build_data.write(target, b"new")
    assert target.read_bytes() == b"old"


def test_a_list_with_a_hole_is_refused(tmp_path):
    (tmp_path / "list.csv").write_text("file,split,package,path,author,licence\na.webp,train,pack,a.png,,GPL\n")
    with pytest.raises(ValueError, match="list.csv needs a value in column 'author'"):
        build_data.read_rows(tmp_path / "list.csv")


def test_without_apt_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(build_data.shutil, "which", lambda tool: None)
    with pytest.raises(RuntimeError, match="apt-get was not found"):
        build_data.fetch_packages({"pack"}, tmp_path)


def fake_tools(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder.mkdir()
    for tool in ("apt-get", "dpkg-deb"):
        (folder / tool).write_text(f"#!/bin/sh\n{script}\n")
        (folder / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_without_network_one_sentence_says_so(tmp_path, monkeypatch):
    fake_tools(tmp_path / "bin", monkeypatch, "echo 'E: Temporary failure resolving' >&2; exit 100")
    with pytest.raises(RuntimeError, match=r"apt-get download -q pack` failed \(E: Temporary failure resolving\)"):
        build_data.fetch_packages({"pack"}, tmp_path / "debs")


def test_a_package_that_did_not_come_is_named(tmp_path, monkeypatch):
    fake_tools(tmp_path / "bin", monkeypatch, "exit 0")
    with pytest.raises(RuntimeError, match="no package other, pack"):
        build_data.fetch_packages({"pack", "other"}, tmp_path / "debs")


def test_the_command_ends_with_a_sentence_not_a_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(build_data.sys, "argv", ["build_data", "--keep", str(tmp_path)])
    monkeypatch.setattr(build_data.shutil, "which", lambda tool: None)
    with pytest.raises(SystemExit) as stop:
        build_data.main()
    assert str(stop.value.code).startswith("build_data: apt-get was not found")
