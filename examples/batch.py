"""A batch in Python: one job, a subjob per wafer, progress, a figure, and an error that the job survives.

FABMON_URL says where the sidecar is; without one the batch runs all the same, and a later run reports it.
"""

import sys

import fabmon


def measure(wafer: int) -> float:
    if wafer == 2:
        raise ValueError("no focus")
    return 61.5 + wafer


def main(lot: str, wafers: int) -> None:
    with fabmon.job("etch-batch", key=lot, app="recipe-runner", metadata={"tool": "ETCH-07"}) as job:
        for wafer in range(1, wafers + 1):
            with job.subjob(f"wafer-{wafer}") as sub:
                try:
                    sub.metric(temperature_c=measure(wafer))
                except ValueError as error:
                    sub.error(error)
            job.progress(wafer, wafers)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "LOT-4711", 3)
