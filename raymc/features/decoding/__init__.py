"""Decoding of media files; everything here imports av, which is an optional package.

`media.read_clips` imports it when the first file is read. Start with `clip_reader.py`: it reads the
windows of a source in one `reading` of the file's packets (`media_file.py`; `timeline.py` places
them). They go to `video_frames.py` (which of them to decode: `entry_points.py`; `shown.py` makes
pictures of the frames) and to `sound.py`.
"""
