"""How experts are chosen and mixed (paper §3.2): one file per strategy, one protocol."""
