# What the C core is made of. A new file needs a line here, and nothing else.

# Without Python.h: linked into the extension, every C test and every fuzzer.
set(SIRA_PURE_SOURCES
  native/status.c
  native/utf8.c
  native/dtype.c
  native/topic.c
  native/envelope.c
  native/frame.c
  native/contract.c
  native/contract_unify.c
  native/ids.c
)

# With Python.h: the extension only.
set(SIRA_PYTHON_SOURCES
  native/module.c
)
