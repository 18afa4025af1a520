"""Judges nestbench result documents: estimates, verdicts, gates, terminal summary and HTML report.

load    files -> frozen dataclasses (model), checked against ../schema/result.schema.json
stats   pure: intervals, minimum effect, false discovery rate
metrics measurements -> ratios with intervals
compare two documents; gate one document (and a baseline) against a policy; only gate decides exit codes
summary, render, junit: what people and CI systems read
"""
