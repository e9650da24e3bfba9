"""Pictures: decoded strictly, turned upright, in the channels that a classifier takes; and folders of them, one a class."""
