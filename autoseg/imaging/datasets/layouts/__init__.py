"""Folders as people have them: which files are images, label maps, channels and cases."""
