"""Answers about jobs, of one site or of all."""
