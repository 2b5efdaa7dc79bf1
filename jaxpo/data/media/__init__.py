"""Images: files and bytes -> pixels -> tiles -> patches, and the ids that stand for them in a text. numpy alone.

decode (Pillow) -> geometry (height, width -> tiles) -> resize -> patches          marks: <image> -> ids
"""
