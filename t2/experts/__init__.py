"""Expert files, pools of experts, mixtures of them, and conversions."""
