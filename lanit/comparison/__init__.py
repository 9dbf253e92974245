"""Tables, plots, pictures and the report, made from files that earlier stages left."""
