"""The verbs: one module per step, one entry function each, one artifact each."""
