"""How media files are decoded: everything here imports av, which is an optional package.

Pure. `media.py` imports it when the first file is read, and says what comes out. `clip_reader`
goes over a source's `windows` by a `reading` of the file's packets (`media_file`), which it hands
to `video_frames` (which frames; `pictures` makes them what an encoder wants) and to `sound`.
"""
