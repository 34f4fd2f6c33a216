"""A fault harness: clients write and read while hosts, daemons and links fail, and a checker says whether anything was lost.

history.py       what was done and seen, and by whom
plan.py          which faults come when, from a seed
nemesis.py       carries the faults out, and heals them
workload.py      the clients
chains.py        the writes of one object, put in order
checker.py       reads a history and names every violation
convergence.py   what all managers must agree on once everything is healed
engine_client.py asks the API, and tells what failed from what may have happened
harness.py       ties them together
run.py           the command line
"""
