"""`python -m freetier` is the command `freetier`."""

from freetier.cli import main

raise SystemExit(main())
