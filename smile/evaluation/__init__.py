"""From captions to a report: what is scored on what, every metric, intervals, tests, tables.

Read in this order: `catalogue` (the metrics), `measured` (how a number knows its interval),
`scoring` (captions in, numbers out), `rows` (what tables show), `report`.
"""
