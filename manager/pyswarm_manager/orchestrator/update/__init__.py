"""Rolling updates and rollbacks: which slots or nodes of a service are renewed when, and what failures lead to.

Pure and without memory: all is read from the service (`update_status`, specs, generation) and its tasks, so whoever leads goes on
where the one before stopped. It decides; the orchestrators of replicated and of global services carry out. In each of their looks
at a service that is

    units    = ... Unit(key, current, elders, past) per slot or node ...            units.py
    service  = judged(view, service, units)                     before anything else: failures pause or roll back   plan.py
    ...        restarts, new units, superfluous units
    step     = next_step(view, service, units, now_ns)          step.service, step.renewals, step.wake_at_ns        plan.py

where both returned services go to the draft, and `../succession.py` does what both orchestrators do to one unit's tasks: restart
it, renew it (stop-first or start-first), let the older task go once its successor runs.
"""
