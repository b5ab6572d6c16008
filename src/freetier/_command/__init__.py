"""What the command `freetier` does, one module a job; the grammar is in `freetier.cli`."""
