"""Decoding of media files; everything here imports av, which is an optional package.

`media.read_clips` imports it when the first file is read. Start with `clip_reader.py`: it reads the
windows of a source in one `reading` of the file's packets (`media_file.py`), which passes them to
`video_frames.py` (which frames to decode; `shown.py` makes pictures of them) and to `sound.py`.
"""
