"""Infrastructure around the scripts: launching, files, downloads, results, metrics, error messages."""
