"""Infrastructure around the scripts: launching, files, downloads, results, metrics, error messages."""

from t2.run import places

__all__ = ["places"]  # it registers a resolver that conf/ uses
