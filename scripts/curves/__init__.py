"""Curves of online stages: read from runs, measured where a run did not, drawn."""
