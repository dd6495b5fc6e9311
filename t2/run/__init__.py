"""What stands around a script: launching, files, results, metrics."""
