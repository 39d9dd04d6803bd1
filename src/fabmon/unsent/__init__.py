"""Events that a sidecar has not taken, on the disk of the machine where they were made."""
