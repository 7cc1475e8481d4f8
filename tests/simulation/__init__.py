"""A simulated clinic: the real core, flow and ledger, in one thread, from one seed.

The clock, Orthanc, the primary, the archive of a route, the vault's store, the modalities and the people are
simulated. Everything that decides is the product's own: rules, ledger, lanes, mirror, failback, verification,
deletion. A run is some months or years of a clinic: the primary dies and comes back, with old data at times,
and people act at bad moments. After each step the invariants of docs/architecture.md are checked against the
truth, which the simulation knows (invariants.py). At the end all faults end, and everything has to come to
rest (clinic.py).

Left out are disks and calls that hang, a replaced index of Orthanc, damaged files, restore, heal, scrub, and
two patients under one SOP Instance UID in one study. Where a primary has a content under a UID that never was
here, a proof by that UID is taken as the product takes it (invariants.py).

`PYTHONPATH=plugins python -m tests.simulation SEED` plays one clinic again, and prints what happened in it.
"""
