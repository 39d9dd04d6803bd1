"""FABMON_SITES: a list, or a file with what differs from site to site."""

from pathlib import Path

import pytest

from fabmon.errors import SettingsError
from fabmon.roles.sites import Site, read_sites


def test_a_list_names_urls() -> None:
    assert read_sites(" fab1=http://a:1, fab2=https://b ,") == {"fab1": Site("http://a:1"), "fab2": Site("https://b")}


def test_a_file_holds_what_differs(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret-2\n")
    file = _write(
        tmp_path,
        f"""
        [fab1]
        url = "http://a:1"
        token = "secret-1"
        deadline = 1.5
        [fab2]
        url = "https://b"
        token_file = "{tmp_path / "token"}"
        ca = "/etc/ca.pem"
        """,
    )
    found = read_sites(str(file))
    assert found["fab1"] == Site("http://a:1", token="secret-1", deadline=1.5)
    assert (found["fab2"].token, found["fab2"].ca) == ("secret-2", "/etc/ca.pem")
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod"):
        read_sites(str(file))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('[fab1]\nurl = "a:1"', "no URL"),
        ('["fab 1"]\nurl = "http://a:1"', "site id"),
        ("[fab1]\ntoken = 'hunter2'", "url"),
        ("[fab1]\nurl = 'http://a'\nulr = 'hunter2'", "ulr"),
        ("[fab1]\nurl = 'http://a'\ndeadline = 0", "deadline"),
        ("[fab1]\nurl = 'http://a'\ntoken_file = '/nowhere'", "token_file"),
        ("fab1 = 'http://a'", "fab1"),
        ("[fab1", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named_without_a_secret(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(SettingsError, match=word) as caught:
        read_sites(str(_write(tmp_path, text)))
    assert "hunter2" not in str(caught.value)
    assert "FABMON_SITES" in str(caught.value)


def _write(directory: Path, text: str) -> Path:
    file = directory / "sites.toml"
    file.write_text(text)
    file.chmod(0o600)
    return file
