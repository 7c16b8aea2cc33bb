"""The commands on stores, a file each.

Each parses, calls the function of `tokenstore` of its name, and prints. `convert_log` and `stats_tables`
print what is longer than a line.
"""
