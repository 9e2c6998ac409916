"""python -m rexnet"""

from rexnet.cli import main

main()
