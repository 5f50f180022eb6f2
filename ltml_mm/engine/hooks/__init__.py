"""Hooks of the Runner."""
