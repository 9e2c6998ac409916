"""Entry point of `python -m rexnet`, which torchrun starts."""

from rexnet.cli import main

if __name__ == "__main__":
    main()
