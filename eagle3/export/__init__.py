"""The draft in the formats that engines load: one writer for each, and one strict reader."""
