"""Tables and numbers as text, for the terminal and the page."""
