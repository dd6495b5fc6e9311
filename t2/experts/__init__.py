"""Experts: files, pools, mixtures, and conversions between models and formats."""
