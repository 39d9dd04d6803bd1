"""Measurements, each against its limit in the same run; see README.md here."""
