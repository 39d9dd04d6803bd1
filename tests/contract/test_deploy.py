"""What deploy/ holds, checked without an engine or a cluster; docs/security.md says what was not run."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tools.make_secrets import make_secrets

from fabmon import metrics
from fabmon.httpd.tokens import hash_of, read_tokens
from fabmon.settings import ROLES, known_names, load
from fabmon.version import __version__
from tests.fixtures.programs import promtool

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MANIFESTS = sorted(DEPLOY.glob("kubernetes/*.yaml"))
# What Prometheus itself and every process of a client library tell.
NOT_OURS = {"up", "process_open_fds", "process_max_fds", "process_cpu_seconds_total", "process_resident_memory_bytes"}


def test_the_compose_file_keeps_its_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, str(DEPLOY / "compose.yaml")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_secret_of_the_compose_file_is_made_and_none_has_a_default(tmp_path: Path) -> None:
    place = tmp_path / "secrets"
    made = make_secrets(place)
    named = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert named <= set(made)
    used = {name for service in COMPOSE["services"].values() for name in service.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])
    before = {path.name: path.read_text() for path in place.iterdir()}
    assert make_secrets(place) == []
    assert {path.name: path.read_text() for path in place.iterdir()} == before
    assert place.stat().st_mode & 0o077 == 0
    assert len(set(before.values())) == len(before)
    for site in ("fab1", "fab2"):
        file = place / f"tokens_{site}"
        file.chmod(0o600)  # as the service `prepare` installs it
        accepted = {token.name: token for token in read_tokens(file)}
        sent = (place / f"token_sidecar_{site}").read_text().strip()
        assert accepted["sidecar"].hash == hash_of(sent.encode())
        assert (accepted["sidecar"].scopes, accepted["sidecar"].sites) == (("ingest",), (site,))
        assert accepted["central"].hash == hash_of((place / "token_central").read_text().strip().encode())
    text = (DEPLOY / "compose.yaml").read_text()
    assert not re.search(r"(?i)password: *[^/{\s]", text)


def test_the_services_of_the_compose_file_start_as_they_are_written() -> None:
    """Their names of settings exist, their values are within bounds, and what they wait for is there."""
    services = COMPOSE["services"]
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            assert other in services, name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / source).is_dir(), volume
        if "fabmon" not in service["image"]:
            assert ":" in service["image"], name
            continue
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        _settings_are_good(service.get("command", []), service.get("environment", {}), name)
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_manifests_keep_the_schemas_of_kubernetes(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text()))
    for document in documents:
        kubernetes_validate.validate(document, "1.34", strict=True)
    for container in _containers(documents):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, container["name"]
        assert context["allowPrivilegeEscalation"] is False
        environment = {each["name"]: each["value"] for each in container.get("env", [])}
        _settings_are_good(container.get("args", []), environment, container["name"])
    for document in documents:
        selector = document["spec"].get("selector", {})
        wanted = selector.get("matchLabels", selector)
        template = document["spec"].get("template", {}).get("metadata", {}).get("labels", wanted)
        assert wanted.items() <= template.items()


def test_the_image_is_of_this_version() -> None:
    files = [DEPLOY / "compose.yaml", *MANIFESTS]
    named = {version for path in files for version in re.findall(r"image: fabmon:(\S+)", path.read_text())}
    assert named == {__version__}


def test_a_tokens_file_from_a_secret_is_not_readable_by_everybody() -> None:
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            for volume in document["spec"].get("template", {}).get("spec", {}).get("volumes", []):
                assert volume.get("secret", {"defaultMode": 0o440})["defaultMode"] == 0o440


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    unit = DEPLOY / "systemd" / "fabmon-sidecar.service"
    named = set(re.findall(r"FABMON_[A-Z_]+", unit.read_text()))
    assert named <= known_names()
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    # The program of the unit is not installed here; everything else of it is looked at.
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/fabmon/bin/fabmon", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, unit.name in done.stderr) == (0, False), done.stderr


def test_the_linter_of_dockerfiles_has_nothing_to_say() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("hadolint")), "--failure-threshold", "info", str(ROOT / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


def test_alerts_and_dashboard_use_metrics_that_exist() -> None:
    registries = (metrics.EVERYWHERE, metrics.SPOOLED, metrics.STORED, metrics.FEDERATED)
    metrics.SITE.set({}, {}, {}, {})
    families = [family for registry in registries for family in registry.collect()]
    metrics.SITE.clear()
    exist = {sample for family in families for sample in _samples(family.name, family.type)} | NOT_OURS
    exist |= {rule["record"] for rule in _rules() if "record" in rule}
    expressions = [rule["expr"] for rule in _rules()] + [target["expr"] for target in _targets()]
    assert len(expressions) > 45
    for expression in expressions:
        used = set(re.findall(r"\b(?:fabmon[_:]|process_|python_)[\w:]+|\bup\b", expression))
        assert used, expression
        assert used <= exist, (expression, used - exist)


def test_every_alert_has_a_case_and_says_what_to_do() -> None:
    cases = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())["tests"]
    raised = {check["alertname"] for case in cases for check in case["alert_rule_test"] if check.get("exp_alerts")}
    alerts = [rule for rule in _rules() if "alert" in rule]
    assert {rule["alert"] for rule in alerts} == raised
    assert all(rule["annotations"]["action"] and rule["labels"]["severity"] for rule in alerts)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [promtool(), *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _samples(name: str, kind: str) -> Iterator[str]:
    yield {"counter": f"{name}_total"}.get(kind, name)
    if kind == "histogram":
        yield from (f"{name}_{part}" for part in ("bucket", "count", "sum"))


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _targets() -> list[dict[str, Any]]:
    board = json.loads((DEPLOY / "grafana" / "fabmon.json").read_text())
    return [target for panel in board["panels"] for target in panel["targets"]]


def _containers(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for document in documents:
        spec = document["spec"].get("template", {}).get("spec", {})
        yield from spec.get("initContainers", [])
        yield from spec.get("containers", [])


def _settings_are_good(command: list[str], environment: dict[str, str], name: str) -> None:
    assert set(environment) <= known_names(), name
    if "--role" in command:
        given = {key: value for key, value in environment.items() if not key.endswith("_FILE")}
        load(ROLES[command[command.index("--role") + 1]], given)
