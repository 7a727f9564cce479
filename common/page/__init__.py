"""What the data card and the result page share: templates, figures, images, and how numbers are written."""
