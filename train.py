"""`t2 train` out of a checkout: python train.py [group=choice] [key=value] ..."""

from t2.cli.main import run

if __name__ == "__main__":
    run("train")
