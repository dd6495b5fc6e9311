"""Strategies that choose a mixture of experts per prompt, and the two passes (paper, section 3.2)."""
