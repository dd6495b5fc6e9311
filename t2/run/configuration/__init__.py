"""Checks of a composed configuration: types and ranges, the trainer's keys, and what a resumed run may change."""
