"""The draft in the forms that engines load: what each writes, and one strict reader."""
