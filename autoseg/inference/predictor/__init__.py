"""One image through one model: prepare, predict, post-process, all in memory."""
