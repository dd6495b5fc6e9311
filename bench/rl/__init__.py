"""The parts of bench/rl_step.py: the job, the systems, t2's update alone, and reports."""
