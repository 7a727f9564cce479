"""Attribution maps of classifiers."""
