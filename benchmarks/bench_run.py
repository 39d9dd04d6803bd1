"""What `fabmon run -- true` costs beside an empty Python program: with a healthy sidecar, a dead one and a silent one.

Limit: 3 times. Each round times, one after the other, the empty program and the run with each sidecar, so
that whatever else the machine does hits all of them. Both are started as a user starts them: an interpreter with the same
site-packages, and bytecode that was compiled before, as an installed package has it.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bench import finish, median, result
from benchmarks.bench_sdk import SIDECARS

LIMIT = 3.0
ROUNDS = 60

# What pip writes for an entry point; newer versions do without `re`, which alone takes half of an empty program.
SCRIPT = (
    f"#!{sys.executable}\nimport re\nimport sys\nfrom fabmon.cli.main import main\n"
    "sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])\nsys.exit(main())\n"
)


def main() -> None:
    table = [f"{'sidecar':9}{'empty ms':>10}{'run ms':>10}{'times':>8}"]
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="fabmon-bench-") as directory:
        script = Path(directory) / "fabmon"
        script.write_text(SCRIPT)
        script.chmod(0o755)
        environment = {**os.environ, "FABMON_DATA_DIR": f"{directory}/job", "PYTHONPYCACHEPREFIX": f"{directory}/pyc"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for name, sidecar in SIDECARS.items():
            place = Path(directory) / name
            place.mkdir()
            with sidecar(place) as url:
                empty_s, run_s = measure(
                    environment, [str(script), "run", "--app", "bench", "--url", url, "--", "true"]
                )
            table.append(f"{name:9}{empty_s * 1e3:10.1f}{run_s * 1e3:10.1f}{run_s / empty_s:8.2f}")
            worst = max(worst, run_s / empty_s)
    settings = f"{ROUNDS} rounds for each sidecar, medians. Limit: 3 times."
    finish([result("run", worst, LIMIT, "times an empty Python program")], settings, "\n".join(table))


def measure(environment: dict[str, str], run: list[str]) -> tuple[float, float]:
    """Seconds of the empty program and of *run*, the medians of rounds in which one follows the other."""
    commands = ([sys.executable, "-c", "pass"], run)
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 5):
        for times, command in zip(took, commands, strict=True):
            begun = time.perf_counter()
            subprocess.run(command, env=environment, check=True)
            if number >= 5:  # the first write the bytecode
                times.append(time.perf_counter() - begun)
    return median(took[0]), median(took[1])


if __name__ == "__main__":
    main()
