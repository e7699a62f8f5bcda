"""Which agent runs a load: forecasts in, placements out.

Will own load histories, forecasters and their measured errors, placement policies as pure
functions, and the leases that placements are. Refuses to know what a load computes, how agents are
found (`registry`), and how processes are started: an actuator does that. Nothing is implemented
here yet.
"""
