"""Launcher of distributed training (scripts/run_distribute_train_*.sh): start the workers and watch them.

launch: the options and the order of events. cluster: devices, ports, and every check before anything starts.
workers: the child processes. guardian: kills them if the launcher is killed. nodes: how the launchers of several hosts
keep in touch. watch: how the job ends.
"""
