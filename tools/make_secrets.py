"""Make what deploy/compose.yaml needs and nobody may know: passwords, tokens and their hashes, in deploy/secrets.

What is there already stays. The folder is closed to other accounts; the files in it are readable for the accounts that the
images run under, which differ from ours.
"""

import secrets
from pathlib import Path

from fabmon.clock import now
from fabmon.httpd.tokens import HEADER, ScopeName, Token, hash_of, new_secret
from fabmon.wire.codec import encode

PLACE = Path(__file__).parents[1] / "deploy" / "secrets"
SITES = ("fab1", "fab2")


def make_secrets(place: Path) -> list[str]:
    """Make the files that are missing; returns their names."""
    place.mkdir(mode=0o700, exist_ok=True)
    place.chmod(0o700)
    made: list[str] = []

    def keep(name: str, content: str) -> str:
        path = place / name
        if not path.exists():
            path.write_text(content + "\n", encoding="utf-8")
            path.chmod(0o644)
            made.append(name)
        return path.read_text(encoding="utf-8").strip()

    keep("grafana_password", secrets.token_urlsafe(24))
    central = keep("token_central", new_secret())
    prometheus = keep("token_prometheus", new_secret())
    operator = keep("token_operator", new_secret())
    for site in SITES:
        password = keep(f"database_password_{site}", secrets.token_urlsafe(24))
        keep(f"database_url_{site}", f"postgresql://fabmon:{password}@database-{site}/fabmon")
        sidecar = keep(f"token_sidecar_{site}", new_secret())
        tokens = [
            _token("sidecar", sidecar, "ingest", site=site),
            _token("central", central, "read", site=site),
            _token("prometheus", prometheus, "read"),
        ]
        keep(f"tokens_{site}", _file(tokens))
    keep("tokens_central", _file([_token("operator", operator, "read"), _token("prometheus", prometheus, "read")]))
    return made


def _token(name: str, secret: str, scope: ScopeName, site: str | None = None) -> Token:
    return Token(
        name=name,
        hash=hash_of(secret.encode()),
        scopes=(scope,),
        sites=(site,) if site else None,
        created=now().replace(microsecond=0),
    )


def _file(tokens: list[Token]) -> str:
    return HEADER.decode() + "\n".join(encode(token).decode() for token in tokens)


if __name__ == "__main__":
    for each in make_secrets(PLACE):
        print(f"made deploy/secrets/{each}")
