"""Figures of one bundle on held-out patients, a module a subject; every interval is a bootstrap by patient."""
