"""The commands: `t2 train`, `t2 evaluate`, `t2 adapt`, `t2 export`, `t2 list`, and train.py and so on of a checkout."""
