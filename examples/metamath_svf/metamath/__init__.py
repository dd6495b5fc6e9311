"""The parts of run.py: settings, data, answers, training, record."""
