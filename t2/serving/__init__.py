"""Serving two-pass inference over HTTP, in the protocol of OpenAI's API (paper §3.2 for a request at a time)."""
