"""The server's HTTP side; needs the extra `server` (FastAPI, uvicorn, python-multipart)."""
