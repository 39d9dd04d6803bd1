"""sidecar_batch: a hundred events a request, over 8 connections; see sidecar_rate.py."""

from benchmarks.sidecar import BATCH
from benchmarks.sidecar_rate import compare

if __name__ == "__main__":
    compare(BATCH)
