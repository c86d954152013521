"""Downloads against a server on this machine that breaks off, forgets and changes; archives that want to get out."""

import hashlib
import io
import json
import socket
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from lessons.data import download as module
from lessons.data import open_dataset
from lessons.data.catalogue import NAMES
from lessons.data.download import DownloadError, download, extract

CONTENT = bytes(range(256)) * 2000
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    """The server is on this machine, whatever stands between it and the network."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    """A file server whose behaviour the test sets: content, version, ranges, after how many bytes it breaks off."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state = httpd.state
            state["asked"].append(self.headers.get("Range"))
            content, start = state["files"].get(self.path, state["content"] if self.path == "/file" else None), 0
            if content is None:
                self.send_error(404)
                return
            if state["silent"].is_set():  # accepts, and never says anything
                state["talk"].wait(10)
                return
            wanted = self.headers.get("Range")
            if wanted and state["ranges"] and self.headers.get("If-Range") == state["version"]:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            if state["length"]:
                self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start + state['shift']}-{len(content) - 1}/{len(content)}")
            if state["version"]:
                self.send_header("ETag", state["version"])
            self.end_headers()
            self.wfile.write(content[start:][: state["breaks_after"]])

        def log_message(self, *arguments):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.state = {"content": CONTENT, "version": '"1"', "ranges": True, "breaks_after": None, "asked": [],
                   "shift": 0, "files": {}, "length": True, "silent": threading.Event(), "talk": threading.Event()}
    httpd.url = f"http://127.0.0.1:{httpd.server_port}/file"
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.state["talk"].set()
    httpd.shutdown()
    httpd.server_close()


def broken_off(server, path, after=100_000):
    server.state["breaks_after"] = after
    with pytest.raises(DownloadError, match="broke off .*goes on where it stopped"):
        download(server.url, path, SHA)
    assert not path.exists()
    server.state["breaks_after"] = None


def test_whole_file(server, tmp_path, capsys):
    path = download(server.url, tmp_path / "deep" / "file.bin", SHA)
    assert path.read_bytes() == CONTENT
    assert sorted(p.name for p in path.parent.iterdir()) == ["file.bin"]  # nothing else is left
    assert "0.5 MB" in capsys.readouterr().out


def test_goes_on_where_it_was_cut_off(server, tmp_path):
    broken_off(server, tmp_path / "file")
    assert download(server.url, tmp_path / "file", SHA).read_bytes() == CONTENT
    assert server.state["asked"] == [None, "bytes=100000-"]


def test_begins_anew_when_the_file_changed_meanwhile(server, tmp_path):
    broken_off(server, tmp_path / "file")
    server.state.update(content=CONTENT[::-1], version='"2"')
    assert download(server.url, tmp_path / "file").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("change", [{"ranges": False}, {"version": None}])
def test_begins_anew_when_the_server_cannot_go_on(server, tmp_path, change):
    server.state.update(change)
    broken_off(server, tmp_path / "file")
    assert download(server.url, tmp_path / "file", SHA).read_bytes() == CONTENT


def test_begins_anew_when_another_part_comes_than_was_asked_for(server, tmp_path):
    broken_off(server, tmp_path / "file")
    server.state["shift"] = 5
    assert download(server.url, tmp_path / "file", SHA).read_bytes() == CONTENT
    assert server.state["asked"] == [None, "bytes=100000-", None]


def test_begins_anew_when_everything_was_here_but_not_yet_renamed(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    (tmp_path / "file.part.tag").write_text('"1"')
    assert download(server.url, tmp_path / "file", SHA).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_part_of_unknown_version_is_not_gone_on_with(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"something else")
    assert download(server.url, tmp_path / "file", SHA).read_bytes() == CONTENT
    assert server.state["asked"] == [None]


def test_a_weak_version_is_not_gone_on_with(server, tmp_path):
    server.state["version"] = 'W/"1"'
    broken_off(server, tmp_path / "file")
    download(server.url, tmp_path / "file", SHA)
    assert server.state["asked"] == [None, None]


def test_a_length_that_is_not_told(server, tmp_path, capsys):
    server.state["length"] = False
    assert download(server.url, tmp_path / "file", SHA).read_bytes() == CONTENT
    assert "size unknown" in capsys.readouterr().out


def test_a_server_that_says_nothing_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    server.state["silent"].set()
    with pytest.raises(DownloadError, match=r"timed out.*put x\.zip at"):
        download(server.url, tmp_path / "x.zip")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc", b"", b"nonsense\r\n\r\n"])
def test_an_answer_that_is_no_http_is_one_sentence(tmp_path, answer):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        def speak():
            connection, _ = listening.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(answer)

        threading.Thread(target=speak, daemon=True).start()
        with pytest.raises(DownloadError, match="cannot be reached or broke off"):
            download(f"http://127.0.0.1:{listening.getsockname()[1]}/x.zip", tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_an_address_that_is_none_is_one_sentence(tmp_path):
    with pytest.raises(DownloadError, match="cannot be reached"):
        download("no address", tmp_path / "x.zip")


def test_wrong_checksum_deletes_the_file_and_says_so(server, tmp_path):
    for wrong in ({"sha256": "0" * 64}, {"md5": "0" * 32}):
        with pytest.raises(DownloadError, match="has been deleted; try again"):
            download(server.url, tmp_path / "file", **wrong)
        assert not (tmp_path / "file").exists()
        assert not (tmp_path / "file.part").exists()


def test_without_a_checksum_the_one_found_is_printed(server, tmp_path, capsys):
    download(server.url, tmp_path / "file")
    assert SHA in capsys.readouterr().out


def test_dead_link_and_no_network_give_one_sentence(server, tmp_path):
    with pytest.raises(DownloadError, match=r"answers 404 .*fetch x\.zip by hand and put it at"):
        download(server.url + "/nothing", tmp_path / "x.zip")
    with pytest.raises(DownloadError, match=r"cannot be reached .*put x\.zip at"):
        download("http://127.0.0.1:9/x.zip", tmp_path / "x.zip")
    assert not list(tmp_path.glob("x.zip"))


def test_the_command_says_one_sentence(tmp_path, monkeypatch, capsys):
    source = module.Source(".", (("http://127.0.0.1:9/PennFudanPed.zip", None),), "PennFudanPed.zip, unpacked")
    monkeypatch.setitem(module.SOURCES, "penn_fudan", source)
    assert module.main(["penn_fudan", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"What is wanted in {tmp_path}: PennFudanPed.zip" in said
    with pytest.raises(SystemExit):
        module.main(["imagenet"])


def png():
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (255, 255, 255)).save(stream, "PNG")
    return stream.getvalue()


XML = "<annotation><object><name>RBC</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object></annotation>"
PANOPTIC = {"images": [{"id": 1, "file_name": "a.png", "height": 6, "width": 8}], "categories": [{"id": 4, "name": "sky"}],
            "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": [
                {"id": 16777215, "category_id": 4, "bbox": [0, 0, 8, 6], "area": 48}]}]}


@pytest.mark.parametrize("around", ["", "stage1_train/"])
def test_nuclei_from_the_archive_to_the_sample(server, tmp_path, monkeypatch, around):
    members = {f"{around}{name}/{kind}/{name}.png": png() for name in "abcdefgh" for kind in ("images", "masks")}
    fetched(server, monkeypatch, "nuclei", [members], tmp_path)
    counts = [len(open_dataset("nuclei", split, tmp_path)) for split in ("train", "val")]
    assert sum(counts) == 8
    assert open_dataset("nuclei", "train", tmp_path)[0][1]["boxes"].tolist() == [[0, 0, 8, 6]]


def test_bccd_from_the_archive_to_the_sample(server, tmp_path, monkeypatch):
    inside = "BCCD_Dataset-master/BCCD"
    members = {f"{inside}/ImageSets/Main/train.txt": "a\n", f"{inside}/Annotations/a.xml": XML,
               f"{inside}/JPEGImages/a.jpg": png(), "BCCD_Dataset-master/README.md": "cells"}
    for _ in range(2):  # a second time unpacks again, without asking the server
        fetched(server, monkeypatch, "bccd", [members], tmp_path)
        assert open_dataset("bccd", "train", tmp_path)[0][1]["boxes"].tolist() == [[0, 0, 4, 4]]
        assert sorted(path.name for path in (tmp_path / "bccd").iterdir()) == ["BCCD", "README.md"]
    assert len(server.state["asked"]) == 1


def test_coco_from_archives_within_archives_to_the_sample(server, tmp_path, monkeypatch):
    segments = zip_of(tmp_path / "segments.zip", {"panoptic_val2017/a.png": png()}).read_bytes()
    fetched(server, monkeypatch, "coco2017", [
        {"annotations/panoptic_val2017.json": json.dumps(PANOPTIC), "annotations/panoptic_val2017.zip": segments},
        {"val2017/a.png": png()}], tmp_path)
    assert open_dataset("coco2017", "val", tmp_path, task="panoptic")[0][1]["panoptic"].unique().tolist() == [16777215]


def fetched(server, monkeypatch, name, archives, root):
    """Fetches a set from archives of these members on the server, through the table of sources."""
    address = server.url.removesuffix("/file")
    for i, members in enumerate(archives):
        server.state["files"][f"/{i}.zip"] = zip_of(root / "made.zip", members).read_bytes()
    places = tuple((f"{address}/{i}.zip", None) for i in range(len(archives)))
    monkeypatch.setitem(module.SOURCES, name, replace(module.SOURCES[name], archives=places))
    assert module.main([name, "--root", str(root)]) == 0


def test_every_set_but_the_embedded_one_has_a_source():
    assert set(module.SOURCES) == set(NAMES) - {"scenes"}
    for source in module.SOURCES.values():
        assert all(url.startswith(("https://", "http://images.cocodataset.org/")) for url, _ in source.archives)
        assert source.by_hand


def zip_of(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as file:
        for info, content in members:
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def member(name, kind=tarfile.REGTYPE, link="", content=b"x"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, content if kind == tarfile.REGTYPE else b""


def test_archives_are_unpacked_and_added_to(tmp_path):
    extract(zip_of(tmp_path / "a.zip", {"d/one.txt": "1", "two.txt": "2"}), tmp_path / "out")
    extract(tar_of(tmp_path / "b.tar.gz", member("d", tarfile.DIRTYPE), member("d/three.txt", content=b"3")), tmp_path / "out")
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.txt"))
    assert files == ["d/one.txt", "d/three.txt", "two.txt"]


@pytest.mark.parametrize("name", ["../evil", "d/../../evil", "/evil", "..\\evil", "C:\\evil"])
def test_nothing_is_written_outside(tmp_path, name):
    inside = tmp_path / "deep" / "out"
    with pytest.raises(ValueError, match="outside its folder"):
        extract(zip_of(tmp_path / "a.zip", {"good": "1", name: "2"}), inside)
    with pytest.raises(ValueError, match="outside its folder"):
        extract(tar_of(tmp_path / "a.tgz", member("good"), member(name)), inside)
    assert not list(tmp_path.rglob("evil"))
    assert not list((tmp_path / "deep").iterdir())  # not even the good part stays


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with pytest.raises(ValueError, match="a link or a device"):
        extract(tar_of(tmp_path / "a.tgz", member("l", kind, "/etc/passwd"), member("l/x")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match="holds 'link', a link or a device"):
        extract(tmp_path / "a.zip", tmp_path / "out")


def test_a_damaged_or_locked_zip_is_named(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"good": "1" * 1000})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"1" * 500, b"2" * 500))  # the checksum inside does not fit any more
    with pytest.raises(ValueError, match="no complete archive"):
        extract(path, tmp_path / "out")
    locked = bytearray(content)
    locked[6] |= 1  # "encrypted", in the local and in the central header
    locked[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(locked)
    with pytest.raises(ValueError, match="no complete archive"):
        extract(path, tmp_path / "out")
    path.write_text("<html>Please log in</html>")
    with pytest.raises(ValueError, match="delete it and download it again"):
        extract(path, tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        extract(tmp_path / "none.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cut_archive_is_named_and_leaves_nothing(tmp_path):
    path = tar_of(tmp_path / "a.tgz", member("good", content=bytes(10_000)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="no complete archive"):
        extract(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(OSError, match="are free"):
        extract(zip_of(tmp_path / "a.zip", {"big": "x" * 1000}), tmp_path / "out")
