"""The model as a policy: completions, and the log-probabilities of completions."""
