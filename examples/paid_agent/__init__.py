"""A service that sells small text jobs for sats, with a community's pool that pays what it can.

It embeds `freetier`: jobs, sessions and the ledger are in one database, and a job's row changes in
the transaction that moves its sats. Start it with `python -m examples.paid_agent`.
"""
