"""The version, in this one place: the wheel, `/v1/healthz` and `fabmon --version` read it here."""

__version__ = "2.0.0"
