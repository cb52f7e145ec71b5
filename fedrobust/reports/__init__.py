"""Figures and pages from data. Only here is matplotlib imported."""
