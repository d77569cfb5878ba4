"""The colours and marks of all figures."""
INK, BLUE, ORANGE, GREEN = '#222222', '#2a6fbb', '#e07b26', '#3a9a5b'
RED, GREY = '#c8402f', '#9aa0a6'
SERIES, MARKS = (BLUE, ORANGE, GREEN, GREY), 'os^D'  # of the first, second, … series of a chart
