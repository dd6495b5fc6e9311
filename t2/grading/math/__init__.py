"""Equality of mathematical expressions."""
