import os
import tempfile

# mteb makes this folder, in the user's home unless it is named, when it is imported; nothing here is kept in it.
os.environ.setdefault("MTEB_CACHE", tempfile.gettempdir())
