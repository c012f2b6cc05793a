"""Charts and pictures: SVG for the page, PNG for files."""
