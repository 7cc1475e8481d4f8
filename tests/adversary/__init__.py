"""Attacks the running appliance, by who attacks; a known device stores all along and is answered in time.

Rule 1: an attacker runs in a container of its own on the appliance's network, with the standard
library alone, so that it has an address of its own and shares no code with what it attacks.
Rule 2: every case ends with the same questions: did a service end, was a known device kept waiting,
did the attacker get what it may not have?
Rule 3: what a generator makes depends on seed and number alone; a finding prints both, and
`python -m tests.adversary.attack KIND --seed S --only N` sends that one case again.
"""
