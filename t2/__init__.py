"""t2: train, mix and measure the experts of Transformer² (arXiv 2501.06252)."""

__version__ = "0.1.0"
