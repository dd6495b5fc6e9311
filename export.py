"""`t2 export` out of a checkout: python export.py [group=choice] [key=value] ..."""

from t2.cli.main import run

if __name__ == "__main__":
    run("export")
