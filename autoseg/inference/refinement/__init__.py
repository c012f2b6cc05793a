"""Boundary refinement: patches along predicted surfaces, looked at again by small networks."""
