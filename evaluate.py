"""`t2 evaluate` out of a checkout: python evaluate.py [group=choice] [key=value] ..."""

from t2.cli.main import run

if __name__ == "__main__":
    run("evaluate")
