"""Frameworks that log to Pillion. Each module needs its framework, and is imported by you alone."""
