"""Bridges to other people's evaluation and training loops: lm-evaluation-harness, verifiers."""
