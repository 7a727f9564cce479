"""Labels: which are probably wrong, which faces to label next, and the page to label them on."""
