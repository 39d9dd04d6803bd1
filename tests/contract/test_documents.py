"""What is written down is what the code does."""

import re
from pathlib import Path

from tools.api_page import api_page
from tools.make_docs import configuration

from fabmon.errors import FabmonError
from fabmon.httpd.problems import CATALOGUE
from fabmon.settings import known_names
from tests.contract.test_ingest import BODIES, RULES

ROOT = Path(__file__).parents[2]
_RAISED = r'(?:BadEvent|TooLarge|BadRequest)\([^()]*(?:\([^()]*\)[^()]*)*, "(\w+)"\)'


def test_the_configuration_page_is_made_from_the_settings() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == configuration(), "run `make docs`"


def test_the_api_page_is_made_from_what_the_roles_say_of_themselves() -> None:
    assert (ROOT / "docs" / "api.md").read_text() == api_page(), "run `make docs`"


def test_every_setting_named_in_a_document_exists() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    named = {name for page in pages for name in re.findall(r"FABMON_[A-Z_]+[A-Z]", page.read_text())}
    assert named <= known_names()


def test_every_test_named_in_a_document_exists() -> None:
    named = {name for page in ROOT.glob("docs/**/*.md") for name in re.findall(r"`(test_\w+)`", page.read_text())}
    tests = "".join(path.read_text() for path in ROOT.glob("tests/**/*.py"))
    assert not {name for name in named if f"def {name}(" not in tests}


def test_every_code_that_can_be_answered_is_explained() -> None:
    explained = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "problems.md").read_text(), re.MULTILINE))
    raised = {code for code, _ in RULES.values()} | {code for _, _, _, code in BODIES.values()}
    sources = [path for path in (ROOT / "src").rglob("*.py") if path.parent.name != "sdk"]  # it answers nobody
    for path in sources:
        raised |= set(re.findall(_RAISED, path.read_text()))
    raised |= {getattr(kind, "code") for kind in CATALOGUE if hasattr(kind, "code")}  # noqa: B009 - mypy knows no such attribute
    assert raised - explained == set()


def test_every_error_of_ours_that_can_reach_a_request_has_an_answer() -> None:
    for kind in _tree(FabmonError):
        if kind.__name__ in ("PeerRefused", "SettingsError", "StartError", "SchemaMismatch"):
            continue  # these end a start or pause the relay; none of them is raised towards a caller
        assert any(parent in CATALOGUE for parent in kind.__mro__), kind


def test_the_tree_in_the_errors_docstring_is_whole() -> None:
    text = (ROOT / "src" / "fabmon" / "errors.py").read_text()
    drawn = text.partition('"""')[2].partition('"""')[0]
    assert {kind.__name__ for kind in _tree(FabmonError)} <= set(re.findall(r"\w+", drawn))


def test_no_file_holds_two_ideas() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("src", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 300
    }
    assert long == {}


def _tree(kind: type[FabmonError]) -> list[type[FabmonError]]:
    return [each for child in kind.__subclasses__() for each in (child, *_tree(child))]
