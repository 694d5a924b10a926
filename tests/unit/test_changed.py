"""Which tests a change can break."""

import pytest

from tools.changed import can_break, is_revision

RULES = "tests/unit/test_repository.py"


@pytest.fixture
def project(tmp_path):
    files = {
        "lib/__init__.py": "",
        "lib/low.py": "",
        "lib/high.py": "from lib import low",
        "lib/other.py": "",
        "lib/program.py": "",
        "tools/__init__.py": "",
        "tools/one.py": "",
        "tools/two/__init__.py": "",
        "tools/two/__main__.py": "",
        "tests/unit/test_tools.py": 'FOLDER = "tools/"',
        "tests/starting.py": 'COMMAND = ["python", "-m", "lib.program"]',
        "tests/unit/test_low.py": "from lib.high import x",
        "tests/unit/test_other.py": "def test(): import lib.other",
        "tests/e2e/conftest.py": "from tests.starting import COMMAND",
        "tests/e2e/test_program.py": "",
        "tests/unit/test_words.py": 'TEXT = "docs/guide.md"',
        "tests/sites/test_bed.py": "import lib.low",
        RULES: "",
        "app.py": "",
        "admin.py": "",
    }
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "chosen"),
    [
        ("lib/low.py", {"tests/unit/test_low.py"}),
        ("lib/other.py", {"tests/unit/test_other.py"}),
        ("lib/program.py", {"tests/e2e/test_program.py"}),
        ("tests/starting.py", {"tests/e2e/test_program.py"}),
        ("docs/guide.md", {"tests/unit/test_words.py"}),
        ("docs/gone.md", set()),
        ("tools/one.py", {"tests/unit/test_tools.py"}),
        ("tools/two/__main__.py", {"tests/unit/test_tools.py"}),
        ("tests/unit/test_low.py", {"tests/unit/test_low.py"}),
        ("tests/sites/test_bed.py", set()),
    ],
)
def test_it_spreads_by_imports_and_by_names(project, monkeypatch, changed, chosen):
    monkeypatch.syspath_prepend(project)
    monkeypatch.chdir(project)
    assert can_break([changed], project) == {RULES, *chosen}


def test_what_all_stand_on_chooses_all_but_sites(project):
    found = can_break(["pyproject.toml"], project)
    assert len(found) == 6
    assert not any("sites" in name for name in found)


@pytest.mark.slow
def test_in_this_project_it_chooses_what_is_near():
    found = can_break(["lib/auth/oidc.py"])
    assert {"tests/contract/test_sign_in.py", "tests/e2e/test_run_script.py"} <= found
    assert "tests/unit/test_slurm_parsing.py" not in found


def test_an_argument_of_pytest_is_no_revision():
    assert not is_revision("-x")
    assert not is_revision("tests/unit")
