"""`t2 estimate` out of a checkout: python estimate.py [group=choice] [key=value] ..."""

from t2.cli.main import run

if __name__ == "__main__":
    run("estimate")
