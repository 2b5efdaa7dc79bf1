"""Answers to a file of prompts: `jaxpo generate MODEL --file FILE --out OUT.jsonl`.

job.py       what is asked for, and its run from the file to the output
prompts.py   rows -> prompts that fit, and those that do not
settings.py  what the answers depend on; a run goes on under the same settings alone
draw.py      the engine's answers, into a ledger as they are finished
best.py      the judge's choice among n answers
output.py    rows with their answers
meter.py     rows, tokens per second and the time left
"""
