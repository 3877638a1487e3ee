"""Traits on new prompts, token by token: responses, projections, their dynamics, live chat."""
