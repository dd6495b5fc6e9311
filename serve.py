"""`t2 serve` out of a checkout: python serve.py [group=choice] [key=value] ..."""

from t2.cli.main import run

if __name__ == "__main__":
    run("serve")
