# What the C core is made of. A new file needs a line here, and nothing else.

# Without Python.h: linked into the extension, every C test and every fuzzer.
set(SIRA_PURE_SOURCES
)

# With Python.h: the extension only.
set(SIRA_PYTHON_SOURCES
  native/module.c
)
