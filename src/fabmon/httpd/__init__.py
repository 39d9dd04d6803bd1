"""What every role's HTTP server shares."""
