"""sidecar_single: one event a request, over 64 connections; see sidecar_rate.py."""

from benchmarks.sidecar import SINGLE
from benchmarks.sidecar_rate import compare

if __name__ == "__main__":
    compare(SINGLE)
