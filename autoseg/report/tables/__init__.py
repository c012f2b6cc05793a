"""Tables and formatted numbers, for the terminal and the page."""
