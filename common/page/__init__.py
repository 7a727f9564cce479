"""What the data card and the result page are made of: charts, pictures, tables and the style sheet."""
