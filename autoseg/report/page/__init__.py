"""The HTML page: its sections, its images and its template."""
