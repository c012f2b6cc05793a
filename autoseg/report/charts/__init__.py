"""Charts and images: SVG for the page, PNG for files."""
