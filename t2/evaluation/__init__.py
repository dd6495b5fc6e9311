"""How well a system does on a task: scores, statistics, reports, tables and figures."""
