"""Training an expert by policy gradient in PyTorch Lightning (paper, section 3.1)."""
