"""Figures as people read them: pages, tables, model cards.

A page loads nothing from elsewhere, names no patient and no file, and can be read without colour and on paper.
"""
