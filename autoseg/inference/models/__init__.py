"""From a workspace to networks that are ready to predict, and what their prediction costs."""
