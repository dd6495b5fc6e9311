"""Base models: sources, loading, prompts, images and forward passes."""
