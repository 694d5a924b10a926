"""The list of planted faults fits the code, and planting one works."""

from pathlib import Path

import pytest

from tools import mutants

LISTED = mutants.read_list()


def test_every_mutant_can_be_planted():
    assert [said for mutant in LISTED if (said := mutants.misfit(mutant))] == []


def test_no_fault_is_listed_twice_and_each_changes_something():
    assert len({(m.file, m.old, m.new) for m in LISTED}) == len(LISTED)
    assert [m for m in LISTED if m.old == m.new or not m.effect or not m.tests] == []


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # these tests need none
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n" + "".join(f"  {m}\n" for m in ("browser", "portal", "slow", "site"))
    )
    (tmp_path / "sign.py").write_text("def sign(x):\n    return 1 if x > 0 else -1\n")
    (tmp_path / "test_sign.py").write_text("""import pytest
from sign import sign

def test_positive():
    assert sign(3) == 1

@pytest.mark.slow
def test_negative():
    assert sign(-3) == -1
""")
    return tmp_path


@pytest.mark.slow
def test_a_fault_is_killed_by_a_test_that_notices_and_by_no_other(copy):
    before, tried = (copy / "sign.py").read_text(), mutants.Copy(copy)
    for new, killer in (
        ("x < 0", mutants.Killer.FAST),
        ("True", mutants.Killer.SLOW),
        ("x > 1", mutants.Killer.NONE),
    ):
        mutant = mutants.Mutant("sign.py", "x > 0", new, "the wrong sign", ("test_sign.py",))
        assert tried.try_out(mutant, everything=False) is killer, new
        assert (copy / "sign.py").read_text() == before


@pytest.mark.slow
def test_tests_that_fail_anyway_kill_nothing_and_the_mutant_is_named(copy):
    (copy / "test_sign.py").write_text("def test_broken():\n    assert False\n")
    mutant = mutants.Mutant("sign.py", "x > 0", "x < 0", "the wrong sign", ("test_sign.py",))
    with pytest.raises(RuntimeError, match="the wrong sign: its tests fail without it"):
        mutants.Copy(copy).try_out(mutant, everything=False)


@pytest.mark.parametrize(
    ("old", "tests", "said"),
    [
        ("x >= 0", ("test_sign.py",), "has 0 times"),
        ("x", ("test_sign.py",), "has 2 times"),
        ("x > 0", ("test_other.py",), "no test"),
    ],
)
def test_a_mutant_that_does_not_fit_is_named(copy, old, tests, said):
    assert said in mutants.misfit(mutants.Mutant("sign.py", old, "y", "none", tests), copy)
