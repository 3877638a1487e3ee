"""What a model does when it is prompted, steered, or left alone: the modules behind `roll_out`."""
