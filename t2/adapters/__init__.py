"""What is trained: the adapters that stand between a frozen model and its experts."""
