"""The figures of a report, one file each: every ``compose_…`` fills an empty matplotlib figure."""
