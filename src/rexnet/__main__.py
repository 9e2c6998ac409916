"""`python -m rexnet`, as torchrun starts it."""

from rexnet.cli import main

if __name__ == "__main__":
    main()
