"""`python -m flows.cli`: the command line where no `errata` is on the path."""

from flows.cli.main import main

main()
