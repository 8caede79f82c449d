"""From preference pairs to a merged model."""
