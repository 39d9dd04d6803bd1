"""fabmon: monitoring for the batch jobs of semiconductor fabs.

    import fabmon

    with fabmon.job("etch-batch", key="LOT-4711", app="recipe-runner", metadata={"tool": "ETCH-07"}) as job:
        for wafer in wafers:
            with job.subjob(f"wafer-{wafer}") as sub:
                sub.progress(0.5)

See docs/reporting.md. The names are found on first use, so that `fabmon run` and `fabmon serve` do not pay for them;
nothing outside the standard library and msgspec is imported.
"""

from fabmon.version import __version__

__all__ = ["Run", "__version__", "current", "flush", "job", "subjob"]

TYPE_CHECKING = False  # of our own: `typing` alone takes longer to import than all that `fabmon run` needs
if TYPE_CHECKING:
    from fabmon.sdk.context import Run, current, flush, job, subjob
else:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'fabmon' has no attribute {name!r}")
        from fabmon.sdk import context

        return getattr(context, name)
