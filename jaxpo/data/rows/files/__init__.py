"""Files of rows on disk: which of them a name stands for, how they are opened, and one reader per format.

listing.py      names of files and folders -> the files that are read, and what is not, said in words
  splits.py     training, validation and test files of a folder are told apart by their names
  saved.py      folders of `datasets.save_to_disk`
readers.py      suffix -> reader
  jsonl.py, json_list.py, tables.py, parquet.py, arrow.py, text.py    one format each; (number, values) of every row
compression.py, encoding.py, json_text.py, arrow_rows.py    what several readers share
"""
