"""Adapters: the trainable parameters inside a frozen model."""
