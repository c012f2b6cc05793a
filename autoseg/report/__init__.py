"""The HTML report of a workspace, its charts and images, and the tables of the terminal."""
