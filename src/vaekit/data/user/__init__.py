"""Data modules for files and objects of the user."""
