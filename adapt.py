"""`t2 adapt` out of a checkout: python adapt.py [group=choice] [key=value] ..."""

from t2.cli.main import run

if __name__ == "__main__":
    run("adapt")
