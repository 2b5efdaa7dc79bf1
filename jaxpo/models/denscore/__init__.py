"""Two small towers that give pictures and captions directions in one space: how well one fits the other."""
