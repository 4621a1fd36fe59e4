"""The figures, one file each: every ``compose_…`` fills an empty matplotlib figure."""
