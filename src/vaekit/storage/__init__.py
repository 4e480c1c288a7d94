"""Files on disk, written completely or not at all, and the folders of runs."""
