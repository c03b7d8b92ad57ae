"""The launcher of distributed trainings (scripts/run_distribute_train_*.sh): it starts msrun, and watches the job.

launch: options, and the msrun command. cluster: devices, ports, and what is checked before anything starts.
nodes: launchers of several hosts keep in touch. processes: what msrun has started. watch: how the job ends.
"""
