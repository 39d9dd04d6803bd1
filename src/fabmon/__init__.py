"""fabmon: monitoring for the batch jobs of semiconductor fabs."""

from fabmon.version import __version__

__all__ = ["__version__"]
