"""Networks to integer layers, columns, schedules and program images."""
