"""What a person sees of a case: pictures, reports, scenes, and the summary that they tell."""
