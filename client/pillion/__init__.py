"""Pillion."""
