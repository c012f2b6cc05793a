"""The HTML page: its sections, its pictures and its template."""
