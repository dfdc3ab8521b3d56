"""A seeded workload on a stack that is killed, stopped, starved and lied to, and the invariants after it."""
