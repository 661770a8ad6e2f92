"""Is a dataset usable, whoever recorded it: `gap_vla.rlds.checking.run.check_dataset(path)`."""
