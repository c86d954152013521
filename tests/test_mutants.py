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


# of a module without torch, whose tests begin at once
HARMLESS = Mutant("harmless", "schedules.py", "test_schedules.py", "Only a comment changes.",
                  "import math\n", "import math  # not changed\n")


def test_a_bug_is_killed_a_comment_survives_and_the_repository_stays(monkeypatch, capsys):
    bug = next(mutant for mutant in MUTANTS if mutant.file == HARMLESS.file)
    before = (ROOT / "lessons" / HARMLESS.file).read_bytes()
    monkeypatch.setattr(mutants, "MUTANTS", (bug, HARMLESS))
    assert main([bug.name]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("1 of 1 mutants killed")
    assert main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("no bug")
    assert lines[1].split() == ["killed", bug.name, "tests/test_schedules.py::test_schedules_by_hand"]
    assert lines[2].split()[:2] == ["SURVIVED", "harmless"]
    assert lines[3].startswith("1 of 2 mutants killed")
    assert (ROOT / "lessons" / HARMLESS.file).read_bytes() == before


def test_tests_that_cannot_run_kill_nothing(tmp_path, monkeypatch, capsys):
    assert not mutants.try_one(HARMLESS._replace(name="broken", new="import math and more\n"), tmp_path)
    assert capsys.readouterr().out.startswith("ERROR")
    monkeypatch.setattr(mutants, "GUARD", mutants.GUARD.replace(".parents[1]", ".parents[2]"))
    with pytest.raises(RuntimeError, match="instead of the copy's lessons"):
        first_failure(None, ["test_schedules.py"], tmp_path)


def test_text_that_is_gone_or_stands_twice_is_named(tmp_path):
    (tmp_path / "lessons").mkdir()
    (tmp_path / "lessons" / "schedules.py").write_text(HARMLESS.old * 2, encoding="utf-8")
    with pytest.raises(ValueError, match="stands 2 times in lessons/schedules.py"):
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
