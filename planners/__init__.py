"""Self-configuration: planners compose the pure rules of `planners.rules`.

A planner is a function `plan(fingerprint, budget) -> Plan`: no files, no clock, no torch; equal input gives an
equal plan, and the order of cases does not matter. autoseg finds planners through the entry-point group
`autoseg.planners`; a third party adds one by installing a package that names its function there.
"""
