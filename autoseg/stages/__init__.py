"""The verbs: one entry function per step, one artifact each."""
