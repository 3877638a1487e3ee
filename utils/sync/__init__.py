"""Results travel: experiments/ pushed to and pulled from any S3-compatible store, through rclone. Needs
neither torch nor transformers.
"""
