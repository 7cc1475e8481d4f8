"""What a benchmark runs inside the appliance's image, on its Python and its locked libraries."""
