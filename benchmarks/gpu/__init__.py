"""What a person with one GPU and ten minutes can find out: is it right there, and how fast?"""
