"""Formats that are text with marks: XML, manual pages, notebooks, subtitles, code, settings."""
