"""`python -m moosa` is the command `moosa`. Written by hand, as `__init__` is: a page about it would say no more."""
from moosa.cli import main

if __name__ == "__main__": main()
