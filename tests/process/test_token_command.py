"""`fabmon token`: what it prints, what it keeps, and that two at once lose nothing."""

import subprocess
import sys
from pathlib import Path

from fabmon.httpd.tokens import hash_of, read_tokens
from tests.process.test_start import fabmon


def test_new_prints_the_token_alone_and_keeps_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    setting = {"FABMON_TOKENS_FILE": str(file)}
    done = fabmon("token", "new", "--name", "etch-07", "--scope", "ingest", "--site", "fab1", **setting)
    assert done.returncode == 0, done.stderr
    secret = done.stdout.splitlines()[-1]
    assert len(secret) >= 43
    assert secret not in done.stderr
    assert secret.encode() not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    (token,) = read_tokens(file)
    assert (token.name, token.scopes, token.sites) == ("etch-07", ("ingest",), ("fab1",))
    assert token.hash == hash_of(secret.encode())
    second = fabmon("token", "new", "--name", "etch-07", "--scope", "ingest", "--expires-days", "1", **setting)
    assert second.stdout.splitlines()[-1] != secret
    listed = fabmon("token", "list", COLUMNS="200", **setting).stdout
    assert listed.count("etch-07") == 2
    assert token.id in listed
    assert secret not in listed
    assert fabmon("token", "revoke", token.id, **setting).returncode == 0
    assert [each.id for each in read_tokens(file)] != [token.id]
    assert len(read_tokens(file)) == 1


def test_what_is_wrong_is_one_line_that_names_it(tmp_path: Path) -> None:
    file = str(tmp_path / "tokens")
    new = ("token", "new", "--name", "a")
    for arguments, word in (
        ((*new, "--scope", "write"), "--scope"),
        ((*new, "--scope", "read", "--site", "fab 1"), "--site"),
        (("token", "new", "--name", "a b", "--scope", "read"), "--name"),
        (("token", "list"), "No such file"),
        (("token", "revoke"), "NAME or ID"),
    ):
        done = fabmon(*arguments, FABMON_TOKENS_FILE=file)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), (arguments, done.stderr)
        assert word in done.stderr
    assert "FABMON_TOKENS_FILE" in fabmon(*new, "--scope", "read").stderr
    assert not Path(file).exists()


def test_two_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    command = [sys.executable, "-m", "fabmon", "token", "new", "--scope", "read", "--file", str(file), "--name"]
    running = [
        subprocess.Popen([*command, f"n{number}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for number in range(6)
    ]
    assert [each.wait(60) for each in running] == [0] * 6
    assert {token.name for token in read_tokens(file)} == {f"n{number}" for number in range(6)}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tokens.lock", "tokens"]
