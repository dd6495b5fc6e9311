"""What training needs, computed before anything is loaded: memory by part, seconds by phase, on which GPU."""
