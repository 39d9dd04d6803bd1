"""What crosses a process border, and what it means."""
