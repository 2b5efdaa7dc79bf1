"""Images and captions for denoisers: rows -> examples on disk -> batches by position. numpy alone, but for the batch.

formats (rows, folders) -> pixels (decode, resize) -> store (ArrayRecord) -> source (order, crops) -> batch
"""
