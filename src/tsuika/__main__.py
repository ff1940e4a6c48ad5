"""`python -m tsuika` is `tsuika`."""

from tsuika.cli.main import main

main()
