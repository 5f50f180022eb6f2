"""Hooks and helpers around the stock Runner."""
