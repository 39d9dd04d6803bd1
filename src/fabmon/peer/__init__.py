"""Another fabmon, over HTTP."""
