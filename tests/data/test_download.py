"""Downloads against a server on this machine that breaks off, forgets and changes; archives that want to get out."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lessons.data import download as module
from lessons.data.download import DownloadError, download, extract

CONTENT = bytes(range(256)) * 2000
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """A file server whose behaviour the test sets: content, version, ranges, after how many bytes it breaks off."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state = httpd.state
            state["asked"].append(self.headers.get("Range"))
            if self.path != "/file":
                self.send_error(404)
                return
            content, start = state["content"], 0
            wanted = self.headers.get("Range")
            if wanted and state["ranges"] and self.headers.get("If-Range") == state["version"]:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if state["version"]:
                self.send_header("ETag", state["version"])
            self.end_headers()
            self.wfile.write(content[start:][: state["breaks_after"]])

        def log_message(self, *arguments):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.state = {"content": CONTENT, "version": '"1"', "ranges": True, "breaks_after": None, "asked": []}
    httpd.url = f"http://127.0.0.1:{httpd.server_port}/file"
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
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
    for name in ("penn_fudan", "nuclei"):
        assert module.main([name, "--root", str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert str(tmp_path) in said


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
    with pytest.raises(ValueError, match="holds the link"):
        extract(tmp_path / "a.zip", tmp_path / "out")


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
