"""The table of planted bugs is sound, and trying one says rightly whether the tests noticed."""

import pytest

from benchmarks import mutants
from benchmarks.mutants import MUTANTS, ROOT, Mutant, first_failure, main, plant


def test_names_are_unique_and_there_are_many():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_changes_one_place_and_names_its_tests(mutant):
    text = (ROOT / "lessons" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.new != mutant.old
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")
    file, _, function = mutant.tests.partition("::")
    assert not function or f"def {function}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert (ROOT / "tests" / file).is_file()
    assert mutant.mistake.endswith(".")


HARMLESS = Mutant("harmless", "anchors.py", "test_anchors.py::test_by_hand", "Only a comment changes.",
                  "  # (A, 4)\n", "  # A x 4\n")


@pytest.mark.slow
def test_a_bug_is_killed_a_comment_survives_and_the_repository_stays(monkeypatch, capsys):
    bug = next(mutant for mutant in MUTANTS if mutant.name == "anchor_ratio_inverted")._replace(tests=HARMLESS.tests)
    before = (ROOT / "lessons" / "anchors.py").read_bytes()
    monkeypatch.setattr(mutants, "MUTANTS", (bug, HARMLESS))
    assert main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("no bug")
    assert lines[1].split()[:2] == ["killed", bug.name]
    assert "tests/test_anchors.py::test_by_hand" in lines[1]
    assert lines[2].split()[:2] == ["SURVIVED", "harmless"]
    assert lines[3].startswith("1 of 2 mutants killed")
    assert (ROOT / "lessons" / "anchors.py").read_bytes() == before


def test_tests_that_cannot_run_kill_nothing(tmp_path, monkeypatch, capsys):
    broken = HARMLESS._replace(name="broken", new="  # (A, 4)\n    from lessons import nothing )\n")
    assert not mutants.try_one(broken, tmp_path)
    assert capsys.readouterr().out.startswith("ERROR")
    monkeypatch.setattr(mutants, "GUARD", mutants.GUARD.replace(".parents[1]", ".parents[2]"))
    with pytest.raises(RuntimeError, match="instead of the copy's lessons"):
        first_failure(None, ["test_order.py"], tmp_path)


def test_text_that_is_gone_or_stands_twice_is_named(tmp_path):
    (tmp_path / "lessons").mkdir()
    (tmp_path / "lessons" / "anchors.py").write_text(HARMLESS.old * 2, encoding="utf-8")
    with pytest.raises(ValueError, match="stands 2 times in lessons/anchors.py"):
        plant(HARMLESS, tmp_path)
    with pytest.raises(ValueError, match="stands 0 times"):
        plant(HARMLESS._replace(old="gone"), tmp_path)


def test_tests_that_fail_without_a_bug_stop_everything(monkeypatch, capsys):
    monkeypatch.setattr(mutants, "first_failure", lambda *arguments: "tests/test_a.py::test_b")
    assert main(["area_plus_one"]) == 1
    assert capsys.readouterr().out == "The tests fail without any bug: tests/test_a.py::test_b\n"


def test_the_list_and_unknown_names(capsys):
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(MUTANTS)
    with pytest.raises(SystemExit):
        main(["no_such_mutant"])
    assert "no_such_mutant" in capsys.readouterr().err
