"""Everything that runs in the zygote and its children. Imports the standard library and msgspec only, never trio."""
