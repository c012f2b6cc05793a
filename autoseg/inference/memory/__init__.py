"""How much memory a prediction needs, and how much the machine has."""
