"""The evidence: the tables of SeiT and SeiT++ at the scale of the machine at hand, one command a table.

`run.py TABLE.yaml --out DIR` runs the cells of a table that have no result yet, and `table.py` makes a table
and a plot of results. `tables` reads a YAML file to cells (`cells`): a store, a training, an evaluation, each
with the cells that it needs. `stores`, `trainings`, `pixels` and `robustness` say how a cell of each kind is
run (`kinds` lists them), `schedule` runs cells beside each other, each in a process of its own (`worker.py`),
and `results` keeps their results as JSON lines. `estimates` measures steps to say how long a table takes.
"""
