"""Base models: where they come from, how they are loaded, prompts and forward passes."""
